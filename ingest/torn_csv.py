"""CSV files with broken quoting or mixed line ends: which of their lines can still be read.

A quote that is never closed makes a CSV reader take all lines up to the next quote for one value.
Here only the line with that quote is given up; the lines after it are read as if it were not there.
DuckDB also refuses a file whose lines end in LF and in CRLF; in the copy all of them end in LF.
"""

from __future__ import annotations

import csv
import gzip
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

_MOST_LINES = 1000  # of one record: a text with more is taken for a quote that was not closed
TELLING_WIDTH = 4  # columns from which a line inside a value can be told to be a record of its own


def opener(path: Path) -> Any:
    """`open`, or its like for a compressed file."""
    return gzip.open if path.suffix == ".gz" else open


def mend(source: Path, target: Path, delimiter: str, width: int) -> list[tuple[int, str]]:
    """Copy the header and the readable records of `source` to `target`, with LF at line ends.

    Returns (row, why) of the lines left out; rows are counted from 1, with those left out.
    """
    bad: list[tuple[int, str]] = []
    target.parent.mkdir(parents=True, exist_ok=True)
    with opener(source)(source, "rb") as lines, opener(target)(target, "wb") as out:
        out.write(_with_lf(lines.readline()))
        ahead: deque[bytes] = deque()  # lines read beyond a record that turned out to be none
        row = 0
        while _fill(ahead, lines):
            row += bool(ahead[0].strip())
            record, why = _record(ahead, lines, delimiter, width)
            if why:
                bad.append((row, why))
            else:
                out.writelines(map(_with_lf, record))
    return bad


def _with_lf(line: bytes) -> bytes:
    return line[:-2] + b"\n" if line.endswith(b"\r\n") else line


def _record(
    ahead: deque[bytes], lines: IO[bytes], delimiter: str, width: int
) -> tuple[list[bytes], str | None]:
    """Take the next record off `ahead`; or only its first line, and why it is none."""
    taken: list[bytes] = []

    def text() -> Iterator[str]:
        while len(taken) < _MOST_LINES and _fill(ahead, lines):
            taken.append(ahead.popleft())
            yield taken[-1].decode()

    why = None
    try:
        fields = next(csv.reader(text(), delimiter=delimiter, strict=True))
        if len(fields) not in (0, width):  # 0: a blank line
            why = "missing columns" if len(fields) < width else "too many columns"
        elif _swallows(taken, delimiter, width):
            why = "unquoted value"
    except UnicodeDecodeError:
        why = "invalid encoding" if len(taken) == 1 else "unquoted value"
    except csv.Error:
        why = "unquoted value"
    if why:
        ahead.extendleft(reversed(taken[1:]))
    return taken, why and f"line unreadable: {why}"


def _swallows(taken: list[bytes], delimiter: str, width: int) -> bool:
    """Does a record of several lines hold lines that look like records themselves?"""
    if len(taken) == 1 or width < TELLING_WIDTH:
        return False
    whole = [line.count(delimiter.encode()) == width - 1 for line in taken]
    return whole[0] and any(whole[1:])


def _fill(ahead: deque[bytes], lines: IO[bytes]) -> bool:
    """Have at least one line in `ahead`, if there is one."""
    if not ahead and (line := lines.readline()):
        ahead.append(line)
    return bool(ahead)
