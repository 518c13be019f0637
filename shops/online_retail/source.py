"""Brings the two years of Online Retail II from the public archive, unless raw files are there.

The archive is a zip with one Excel workbook of two sheets; each becomes a parquet file. The zip
stays in the raw folder until both are written, so an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from datetime import date
from http.client import HTTPException, HTTPResponse
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from python_calamine import CalamineWorkbook

URL = "https://archive.ics.uci.edu/static/public/502/online+retail+ii.zip"
COLUMNS = pa.schema(
    {
        "Invoice": pa.string(),
        "StockCode": pa.string(),
        "Description": pa.string(),
        "Quantity": pa.int64(),
        "InvoiceDate": pa.timestamp("us"),
        "Price": pa.float64(),
        "Customer ID": pa.int64(),
        "Country": pa.string(),
    }
)
CHUNK = 1 << 20
BATCH = 50_000


def fetch(raw: Path, night: date, scale: str) -> str | None:
    """Make `2009-2010.parquet` and `2010-2011.parquet`; nothing when there are parquet files.

    The whole archive is brought whatever the night and scale. PERENNIAL_ONLINE_RETAIL_URL names
    another place to download from. Raises RuntimeError with what to do when it cannot be had.
    """
    raw.mkdir(parents=True, exist_ok=True)
    archive = raw / "online_retail_II.zip"
    if any(raw.glob("*.parquet")) and not archive.exists():
        return None
    if not archive.exists():
        _download(os.environ.get("PERENNIAL_ONLINE_RETAIL_URL", URL), archive)
    print(f"sha256 of {archive.name}: {_sha256(archive)}", flush=True)
    rows = _convert(archive)
    archive.unlink()
    return f"Online Retail II: {rows:,} rows from the public archive"


def _download(url: str, archive: Path) -> None:
    """Fill `archive` by way of a .part file, which a later call continues."""
    part = archive.with_name(archive.name + ".part")
    complete = False
    while not complete:
        before = _size(part)
        reason = "the connection brings no more data"
        try:
            complete = _receive(url, part)
        except (OSError, HTTPException) as error:  # URLError is an OSError
            reason = str(error)
        # A lost connection is taken up again, as long as it brings something.
        if not complete and _size(part) <= before:
            raise RuntimeError(_what_to_do(url, archive, reason))
    part.replace(archive)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _receive(url: str, part: Path) -> bool:
    """Append to `part` what it lacks; True when it is complete."""
    have = _size(part)
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response: HTTPResponse = urllib.request.urlopen(request, timeout=60)
    except urllib.error.HTTPError as error:
        if error.code != 416:
            raise
        # Nothing lies beyond what we have: complete, unless it is the rest of another file.
        complete = error.headers.get("Content-Range", "") == f"bytes */{have}"
        if not complete:
            part.unlink()
        return complete or _receive(url, part)
    with response, part.open("ab" if response.status == 206 else "wb") as file:
        length = response.headers.get("Content-Length")
        total = file.tell() + int(length) if length else None
        shown = -1
        while chunk := response.read(CHUNK):
            file.write(chunk)
            if file.tell() * 20 // (total or 50_000_000) > shown:  # every twentieth
                shown = file.tell() * 20 // (total or 50_000_000)
                of = f" of {total / 1e6:.1f}" if total else ""
                print(f"downloaded {file.tell() / 1e6:.1f}{of} MB", flush=True)
        return total is None or file.tell() == total


def _what_to_do(url: str, archive: Path, reason: str) -> str:
    return (
        f"Online Retail II cannot be downloaded from {url} ({reason}). Either run again when there"
        f" is a network (what has arrived is kept), or download the file by hand and save it as"
        f" {archive}, or name a folder that holds the two parquet files: DATA=<folder>."
    )


def _convert(archive: Path) -> int:
    """Write a parquet file per sheet; the number of rows. A broken archive is removed."""
    workbook = archive.with_suffix(".xlsx")
    try:
        with zipfile.ZipFile(archive) as content:
            name = next(name for name in content.namelist() if name.endswith(".xlsx"))
            with content.open(name) as packed, workbook.open("wb") as file:
                shutil.copyfileobj(packed, file)  # checks the CRC at the end
    except (zipfile.BadZipFile, StopIteration) as error:
        archive.unlink()
        workbook.unlink(missing_ok=True)
        raise RuntimeError(
            f"{archive.name} was damaged or holds no Excel file and is removed: run again"
        ) from error
    sheets = CalamineWorkbook.from_path(str(workbook))
    rows = 0
    for name in sheets.sheet_names:  # 'Year 2009-2010', 'Year 2010-2011'
        path = archive.with_name(f"{name.removeprefix('Year ')}.parquet")
        part = path.with_name(f".{path.name}.part")
        with pq.ParquetWriter(part, COLUMNS, compression="zstd") as writer:
            for batch in _batches(sheets.get_sheet_by_name(name).iter_rows(), name):
                writer.write_batch(batch)
                rows += batch.num_rows
        part.replace(path)
        print(f"{path.name}: written ({rows:,} rows so far)", flush=True)
    workbook.unlink()
    return rows


def _batches(rows: Iterator[list[Any]], sheet: str) -> Iterator[pa.RecordBatch]:
    header = [str(name) for name in next(rows, [])]
    if header != COLUMNS.names:
        raise RuntimeError(f"sheet '{sheet}' has columns {header}, expected {COLUMNS.names}")
    while batch := list(islice(rows, BATCH)):
        columns = zip(*batch, strict=True)
        yield pa.record_batch(
            [_typed(column, kind) for column, kind in zip(columns, COLUMNS.types, strict=True)],
            schema=COLUMNS,
        )


def _typed(cells: tuple[Any, ...], kind: pa.DataType) -> pa.Array:
    """A column of Excel cells: '' is missing; 85048.0 in a text column is the code 85048."""
    values = (None if cell == "" else cell for cell in cells)
    if pa.types.is_string(kind):
        values = (
            str(int(value)) if isinstance(value, float) and value.is_integer() else value
            for value in values
        )
        return pa.array([None if value is None else str(value) for value in values], kind)
    if pa.types.is_integer(kind):
        return pa.array([None if value is None else int(value) for value in values], kind)
    return pa.array(list(values), kind)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
