"""The simulated shop's deliveries: a file of each kind for every day up to the night.

    events/2026-01-01.parquet     reviews/2026-01-05.jsonl     (days with reviews)
    catalogue/2026-01-01.csv      messages/2026-01-03.csv      (days with messages)

Beside them lies what no shop delivers and no part of the platform reads (`truth.py`):

    truth/users.parquet, items.parquet, experiment.parquet      as of the last day that was made
    truth/propensities/2026-01-01.parquet                       how the lists of a day were drawn

`fetch` may be called again for the same or another night: a file that is already there with the
same bytes is left alone, so its modification time says when its content changed.
"""

from __future__ import annotations

import filecmp
import hashlib
import json
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import csv

from shops.demo import truth
from shops.demo.delivery import Delivery
from shops.demo.simulate import SCALES, SEED, World
from shops.demo.tables import START

KINDS = ("events", "catalogue", "reviews", "messages")
TRUTH = "truth"
AHEAD = 8  # files that may wait to be written
MARKER = "_simulated.json"  # what the raw folder holds: seed, scale, code, files


def fetch(raw: Path, night: date, scale: str) -> str | None:
    """Bring the raw files up to and including `night`; a changed scale or code rewrites them all.

    Raises RuntimeError for an unknown scale.
    """
    if scale not in SCALES:
        raise RuntimeError(f"SCALE={scale} is not known; use one of: {', '.join(SCALES)}")
    raw.mkdir(parents=True, exist_ok=True)
    wanted = {"seed": SEED, "scale": scale, "code": _code_version()}
    known = _read_marker(raw)
    same_world = {key: known.get(key) for key in wanted} == wanted
    if same_world and known["night"] >= night.isoformat() and _complete(raw, known["files"]):
        return f"simulated files ({scale}) are already here up to {known['night']}"
    # A shop does not take back what it has delivered, so a later night's files stay.
    last = max(night, date.fromisoformat(known["night"])) if same_world else night
    (raw / MARKER).unlink(missing_ok=True)  # until all files are there again
    sizes, written = _write_all(raw, _files(scale, last))
    for kind in (*KINDS, TRUTH):
        for file in (raw / kind).rglob("*"):
            if file.is_file() and file.relative_to(raw).as_posix() not in sizes:
                file.unlink()  # of another scale or code, or half-written
    marker = raw / f".{MARKER}.part"
    marker.write_text(json.dumps(wanted | {"night": last.isoformat(), "files": sizes}))
    marker.replace(raw / MARKER)
    aside = sum(path.startswith(f"{TRUTH}/") for path in sizes)
    return (
        f"simulated {len(sizes) - aside} raw files ({scale}) up to {last}, and {aside} in {TRUTH}/ "
        f"that only tests and benchmarks read; {written} of all are new or changed"
    )


def _files(scale: str, night: date) -> Iterator[tuple[str, pa.Table]]:
    """Path below the raw folder and content of every file, in the order of time."""
    world, delivery = World(SCALES[scale]), Delivery(SEED)
    last = (night - START).days
    for number in range(last + 1):
        name = date.fromordinal(START.toordinal() + number).isoformat()
        day = world.day(number)
        yield f"events/{name}.parquet", delivery.events(number, day.events)
        if day.catalogue.num_rows:
            yield f"catalogue/{name}.csv", day.catalogue
        if day.reviews.num_rows:
            yield f"reviews/{name}.jsonl", delivery.reviews(number, day.reviews)
        if day.messages.num_rows:
            yield f"messages/{name}.csv", day.messages
        yield f"{TRUTH}/propensities/{name}.parquet", day.policy
    for name, table in truth.tables(world, last).items():
        yield f"{TRUTH}/{name}.parquet", table


def _write_all(raw: Path, files: Iterator[tuple[str, pa.Table]]) -> tuple[dict[str, int], int]:
    """The size of every file, and how many of them were new or changed."""
    sizes, written = {}, 0
    waiting: deque[tuple[str, Future[bool]]] = deque()
    with ThreadPoolExecutor(1) as writer:  # a file is compressed while the next day happens
        for path, table in files:
            waiting.append((path, writer.submit(_write, raw / path, table)))
            while len(waiting) > AHEAD:
                done, future = waiting.popleft()
                written += future.result()
                sizes[done] = (raw / done).stat().st_size
        for done, future in waiting:
            written += future.result()
            sizes[done] = (raw / done).stat().st_size
    return sizes, written


def _write(path: Path, table: pa.Table) -> bool:
    """Write the file by way of a temporary name; False when the same bytes are there already."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    if path.suffix == ".parquet":
        pq.write_table(table, part, compression="zstd")
    elif path.suffix == ".csv":
        csv.write_csv(table, part)
    else:
        part.write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()))
    if path.exists() and filecmp.cmp(part, path, shallow=False):
        part.unlink()
        return False
    part.replace(path)
    return True


def _read_marker(raw: Path) -> dict:
    path = raw / MARKER
    return json.loads(path.read_text()) if path.exists() else {}


def _complete(raw: Path, sizes: dict[str, int]) -> bool:
    """Whether every file is there in its size."""
    return all(
        (raw / path).exists() and (raw / path).stat().st_size == size
        for path, size in sizes.items()
    )


def _code_version() -> str:
    """A hash of the simulator itself: other code may make other files."""
    modules = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(module.read_bytes() for module in modules)).hexdigest()
