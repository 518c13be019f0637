"""From the raw files of one table to its new landing and quarantine files, not yet in place.

Which days are touched, which files they need, and of rows with one key which one wins.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from datetime import date, timedelta
from pathlib import Path

import duckdb
import pyarrow as pa

from core.paths import Paths
from ingest.contract import PROVENANCE, QUARANTINE, Table
from ingest.ledger import DayState, Ledger, TableState
from ingest.mapping import Mapping, fitting_files, looks_across, map_table, select_rows
from ingest.parts import (
    KEYS,
    days_on_disk,
    key_hash,
    keys_part,
    landing_part,
    losers_part,
    months_on_disk,
    quarantine_part,
    schema,
    sha256,
    write,
    write_days,
)
from ingest.pseudonym import load_forgotten, pseudonym
from ingest.raw import Unreadable

_PUT_ASIDE = "_state IN ('broken', 'excluded', 'late')"


@dataclass
class Staged:
    """One table's next state, and the files that make it so."""

    state: TableState
    moves: dict[Path, Path | None] = field(default_factory=dict)  # place -> new file; None: delete
    days: set[str] = field(default_factory=set)  # whose landing has other content than before
    in_doubt: set[str] = field(default_factory=set)  # to be mapped again if the moves break off


def clear(paths: Paths, table: Table) -> Staged:
    """For a table the shop no longer has: everything goes."""
    days = days_on_disk(paths, table)
    places = [losers_part(paths, table), quarantine_part(paths, table, None)]
    places += [keys_part(paths, table, month) for month in months_on_disk(paths, table)]
    for day in days:
        places += [landing_part(paths, table, day), quarantine_part(paths, table, day)]
    return Staged(TableState(), {place: None for place in places if place.exists()}, days, days)


@dataclass
class Staging:
    """One table on its way: `files` are all raw files by key, `changes` those to be looked at."""

    connection: duckdb.DuckDBPyConnection
    paths: Paths
    work: Path
    mapping: Mapping
    key: bytes
    night: date
    horizon: date
    ledger: Ledger
    files: dict[str, list[str]]
    changes: set[str]

    def __post_init__(self) -> None:
        self.table = self.mapping.table
        self.before = self.ledger.table(self.table.name)
        self.unfinished = set(self.ledger.unfinished.get(self.table.name, []))
        self.here = {file for key in self.mapping.keys for file in self.files[key]}
        self.changes = self.changes & (self.here | self.before.files.keys())
        self.touched = self.unfinished | self._days_that_moved() | self._days_past_retention()
        self.closed = self._closed_days()
        self.changes |= self._files_ahead()
        self.whole = False  # is everything mapped, and nothing kept of what was there?
        self.unreadable: list[Unreadable] = []
        self.misfits: list[Unreadable] = []

    def run(self) -> Staged:
        """Map what is touched, and write the new files under `work`."""
        fingerprint = _fingerprint(self.mapping, self.key)
        other = fingerprint != self.before.fingerprint
        if other:
            self.closed = {}  # everything lands anew
        if not (other or self.changes or self.touched):
            return Staged(self.before)
        self.files, self.misfits = fitting_files(
            self.connection, self.mapping, self.paths.raw, self.files
        )
        across = looks_across(self.connection, self.mapping, self.paths.raw, self.files)
        if other or (across and self.changes):
            self._map_everything()
        else:
            self._map_touched(self.here if across else set())
        state = replace(self._next_state(), fingerprint=fingerprint)
        rewritten = self.touched | self._settle_duplicates()
        staged = Staged(state, in_doubt=rewritten)
        self._stage_landing(staged, rewritten)
        self._stage_keys(staged, rewritten)
        self._stage_losers(staged)
        self._stage_quarantine(staged)
        return staged

    # ---- which files and which days

    def _days_that_moved(self) -> set[str]:
        """Days that come into view, or leave it, because the night or the horizon has moved."""
        days: set[str] = set()
        for was, now in (
            (self.ledger.night, self.night),
            (self.ledger.horizon, self.horizon),
        ):
            if was:
                first, last = sorted([was.isoformat(), now.isoformat()])
                days |= {day for day in self.before.days if first < day <= last}
        return days

    def _days_past_retention(self) -> set[str]:
        """Days that are known and hold rows whose period has ended."""
        kept = self.mapping.shop.retention
        first = kept.first_kept(self.table.name, self.night)
        first_aside = kept.first_kept("quarantine", self.night)
        return {
            day
            for day, rows in self.before.days.items()
            if (first and day < first.isoformat())
            or (first_aside and day < first_aside.isoformat() and _put_aside(rows))
        }

    def _files_ahead(self) -> set[str]:
        """Files with rows on days that come to be, or no longer are, in the future."""
        first, last = sorted([self.ledger.horizon or self.horizon, self.horizon])
        moved = {
            file
            for file, days in self.before.files.items()
            if any(first.isoformat() < day <= last.isoformat() for day in days)
        }
        return moved & self.here

    def _closed_days(self) -> dict[str, str]:
        """Of files that came when some of their days were closed: the first day that was open."""
        here_before = self.before.files.keys() | set(self.ledger.gone)
        stayed = self.before.files.keys() & (self.here - self.changes)
        closed = {f: day for f, day in self.before.closed.items() if f in stayed}
        if stayed and self.ledger.night and not self.table.snapshot:
            lookback = timedelta(days=self.mapping.shop.lookback_days)
            open_from = (self.ledger.night - lookback).isoformat()
            closed |= dict.fromkeys(self.here - here_before, open_from)
        return closed

    def _map_everything(self) -> None:
        self.before, self.changes, self.whole = TableState(), self.here, True
        self._map(self.here)
        self.touched |= days_on_disk(self.paths, self.table) | self._mapped_days(self.here)

    def _map_touched(self, always: set[str]) -> None:
        """Map the changed files with all that share a day with them, until no further day comes."""
        for file in self.changes:
            self.touched |= set(self.before.files.get(file, []))
        chosen = (self.changes | always | self._files_on_touched()) & self.here
        while True:
            self._map(chosen)
            self.touched |= self._mapped_days(self.changes)
            needed = self._files_on_touched() & self.here
            if needed <= chosen:
                break
            chosen |= needed
        self._drop_untouched()

    def _files_on_touched(self) -> set[str]:
        return {f for f, days in self.before.files.items() if not self.touched.isdisjoint(days)}

    def _map(self, chosen: set[str]) -> None:
        self.unreadable = select_rows(
            self.connection, self.mapping, self.paths.raw, self.files, chosen
        ) + [bad for bad in self.misfits if bad.file in chosen]
        map_table(
            self.connection,
            self.mapping,
            self.key,
            self.night,
            self.horizon,
            self.closed,
            load_forgotten(self.paths),
        )
        # past its retention period a row is as if it were not in the raw file
        for name, which in ((self.table.name, "true"), ("quarantine", _PUT_ASIDE)):
            if first := self.mapping.shop.retention.first_kept(name, self.night):
                self.connection.execute(f"DELETE FROM mapped WHERE _day < ? AND {which}", [first])

    def _mapped_days(self, files: set[str]) -> set[str]:
        self._register("some_files", pa.table({"name": pa.array(sorted(files), pa.string())}))
        found = self.connection.execute(
            "SELECT DISTINCT _day FROM mapped WHERE _day IS NOT NULL"
            " AND _file IN (SELECT name FROM some_files)"
        ).fetchall()
        return {day.isoformat() for (day,) in found}

    def _drop_untouched(self) -> None:
        """Leave in `mapped` what takes part: touched days, and undated rows of changed files."""
        self._register("touched", _day_table(self.touched))
        self.connection.execute(
            "DELETE FROM mapped WHERE CASE WHEN _day IS NULL"
            " THEN _file NOT IN (SELECT name FROM some_files)"
            " ELSE _day NOT IN (SELECT day FROM touched) END"
        )
        self.unreadable = [bad for bad in self.unreadable if bad.file in self.changes]

    # ---- what becomes of the rows

    def _next_state(self) -> TableState:
        """The table's state after this landing, but for which candidates land."""
        rows = self.connection.execute(
            "SELECT _day, _state, count(*) FROM mapped WHERE _day IS NOT NULL GROUP BY ALL"
        ).fetchall()
        days = {d: replace(s) for d, s in self.before.days.items() if d not in self.touched}
        for day, state, number in rows:
            entry = days.setdefault(day.isoformat(), DayState())
            setattr(entry, {"ok": "candidates"}.get(state, state), number)
        files = {f: d for f, d in self.before.files.items() if f not in self.changes}
        files |= {file: [] for file in self.here - files.keys()}
        undated = {f: n for f, n in self.before.undated.items() if f not in self.changes}
        for file, on in self.connection.execute(
            "SELECT _file, list(DISTINCT coalesce(_day, _ahead) ORDER BY coalesce(_day, _ahead))"
            " FILTER (coalesce(_day, _ahead) IS NOT NULL) FROM mapped GROUP BY _file"
        ).fetchall():
            if file in self.changes:
                files[file] = [day.isoformat() for day in on or []]
        for file, *numbers in self.connection.execute(
            "SELECT _file, count_if(_state = 'broken'), count_if(_state = 'excluded'),"
            " count_if(_state = 'late') FROM mapped WHERE _day IS NULL GROUP BY _file"
        ).fetchall():
            undated[file] = numbers
        for bad in self.unreadable:
            undated.setdefault(bad.file, [0, 0, 0])[0] += bad.kind == "broken"
        late = self.connection.execute("SELECT DISTINCT _file FROM mapped WHERE _state = 'late'")
        closed = {file: self.closed[file] for (file,) in late.fetchall()}
        closed |= {f: d for f, d in self.before.closed.items() if f not in self.changes}
        return TableState(days=days, files=files, undated=undated, closed=closed)

    def _settle_duplicates(self) -> set[str]:
        """Mark the losers in `mapped`; days not touched whose landing changes all the same.

        Rows of other days with the same keys join in: from the landing with state 'landed', from
        the losers of earlier runs with state 'lost'. Losers end as 'same_day' (the winner's day
        is theirs: counted and dropped) or 'other_day' (kept for when the winner goes).
        """
        key, columns = self.table.key, ", ".join(self._names())
        self._bring_in_rivals(key, columns)
        self.connection.execute(f"""
            CREATE OR REPLACE TEMP TABLE ranked AS
            SELECT rowid AS id, row_number() OVER best AS place, first(_day) OVER best AS winner_day
            FROM mapped
            WHERE _state IN ('ok', 'landed', 'lost') AND ({key}) IN (
                SELECT ({key}) FROM mapped WHERE _state IN ('ok', 'landed', 'lost')
                GROUP BY {key} HAVING count(*) > 1)
            WINDOW best AS (PARTITION BY {key} ORDER BY {self.table.time}, _file, _row, {columns})
        """)
        changed = self.connection.execute("""
            SELECT DISTINCT _day FROM mapped LEFT JOIN ranked ON mapped.rowid = id
            WHERE _state = 'landed' AND place > 1 OR _state = 'lost' AND coalesce(place, 1) = 1
        """).fetchall()
        self.connection.execute("""
            UPDATE mapped SET _state = if(_day = winner_day, 'same_day', 'other_day')
            FROM ranked WHERE mapped.rowid = id AND place > 1
        """)
        days = {day.isoformat() for (day,) in changed}
        if days:  # the rest of those days, to be written again with them
            self._insert("landed", days, f"({key}) NOT IN (SELECT * FROM rival_keys)", columns)
        return days

    def _bring_in_rivals(self, key: str, columns: str) -> None:
        losers = losers_part(self.paths, self.table)
        others = {day for day, state in self.before.days.items() if state.landed} - self.touched
        if not others and not losers.exists():
            return
        known = f"SELECT {key} FROM mapped WHERE _state = 'ok'"
        if losers.exists():
            known += f" UNION SELECT {key} FROM read_parquet('{losers}')"
        self.connection.execute(f"CREATE OR REPLACE TEMP TABLE rival_keys AS {known}")
        self._register("touched", _day_table(self.touched))
        if losers.exists():
            self.connection.execute(
                f"INSERT INTO mapped ({columns}, _day, _state)"
                f" SELECT {columns}, CAST({self.table.time} AS DATE) AS day, 'lost'"
                f" FROM read_parquet('{losers}') WHERE day NOT IN (SELECT day FROM touched)"
            )
        days = self._days_with_rivals(others)
        self._insert("landed", days, f"({key}) IN (SELECT * FROM rival_keys)", columns)

    def _days_with_rivals(self, days: set[str]) -> set[str]:
        """Those of `days` on which a key of `rival_keys` may have landed, by the keys' hashes."""
        files = {m: keys_part(self.paths, self.table, m) for m in {day[:7] for day in days}}
        there = sorted(month for month, file in files.items() if file.exists())
        if not there:
            return days
        found = self.connection.execute(
            "SELECT DISTINCT day::VARCHAR FROM read_parquet(?)"
            f" WHERE hash IN (SELECT {key_hash(self.table)} FROM rival_keys)",
            [[str(files[month]) for month in there]],
        ).fetchall()
        return {day for day in days if day[:7] not in there} | (days & {day for (day,) in found})

    def _insert(self, state: str, days: set[str], where: str, columns: str) -> None:
        """Add landed rows of `days` to `mapped`."""
        places = [str(landing_part(self.paths, self.table, day)) for day in sorted(days)]
        if places:
            self.connection.execute(
                f"INSERT INTO mapped ({columns}, _day, _state)"
                f" SELECT {columns}, CAST({self.table.time} AS DATE), '{state}'"
                f" FROM read_parquet(?, hive_partitioning = false) WHERE {where}",
                [places],
            )

    # ---- writing

    def _stage_landing(self, staged: Staged, rewritten: set[str]) -> None:
        self._register("rewritten", _day_table(rewritten))
        order = f"_day, {self.table.time}, {self.table.key}"
        query = (
            f"SELECT {', '.join(self._names())}, _day FROM mapped"
            " WHERE _state IN ('ok', 'landed', 'lost') AND _day IN (SELECT day FROM rewritten)"
            f" ORDER BY {order}"
        )
        folder = self.work / "landing" / self.table.name
        columns = (*self.table.columns, *PROVENANCE)
        files = write_days(self.connection, query, columns, lambda d: folder / f"{d}.parquet")
        landed = dict(
            self.connection.execute(
                "SELECT _day::VARCHAR, count(*) FROM mapped"
                " WHERE _state IN ('ok', 'landed', 'lost') GROUP BY _day"
            ).fetchall()
        )
        known = self.ledger.table(self.table.name).days
        for day in sorted(rewritten):
            place, file = landing_part(self.paths, self.table, day), files.get(day)
            digest = sha256(file) if file else None
            if day in staged.state.days:
                entry = staged.state.days[day]
                entry.landed, entry.sha256 = landed.get(day, 0) if file else 0, digest
            before = known[day].sha256 if day in known else None
            if digest != before or place.exists() != (file is not None) or day in self.unfinished:
                staged.days.add(day)
                if file or place.exists():
                    staged.moves[place] = file

    def _stage_keys(self, staged: Staged, rewritten: set[str]) -> None:
        """The keys of each month with a day that is written again."""
        months = {day[:7] for day in rewritten}
        months |= months_on_disk(self.paths, self.table) if self.whole else set()
        known = [keys_part(self.paths, self.table, month) for month in sorted(months)]
        kept = [str(file) for file in known if file.exists()] if not self.whole else []
        query = (
            f"SELECT {key_hash(self.table)} AS hash, _day AS day FROM mapped"
            " WHERE _state IN ('ok', 'landed', 'lost') AND _day IN (SELECT day FROM rewritten)"
        )
        if kept:
            query += (
                f" UNION ALL SELECT hash, day FROM read_parquet({kept})"
                " WHERE day NOT IN (SELECT day FROM rewritten)"
            )
        lacking = {
            day
            for day, state in self.before.days.items()
            if state.landed and keys_part(self.paths, self.table, day[:7]) not in map(Path, kept)
        }
        places = [
            str(landing_part(self.paths, self.table, day))
            for day in sorted(lacking - rewritten)
            if day[:7] in months
        ]
        if places:
            query += (
                f" UNION ALL SELECT {key_hash(self.table)}, CAST({self.table.time} AS DATE)"
                f" FROM read_parquet({places}, hive_partitioning = false)"
            )
        folder = self.work / "keys" / self.table.name
        files = write_days(
            self.connection,
            f"SELECT hash, day, date_trunc('month', day)::DATE AS _day FROM ({query})"
            " ORDER BY day, hash",
            KEYS,
            lambda first_day: folder / f"{first_day[:7]}.parquet",
        )
        by_month = {first_day[:7]: file for first_day, file in files.items()}
        for month in months:
            place = keys_part(self.paths, self.table, month)
            _replace_if_other(staged, place, by_month.get(month))

    def _stage_losers(self, staged: Staged) -> None:
        columns = (*self.table.columns, *PROVENANCE)
        rows = self.connection.sql(
            f"SELECT {', '.join(self._names())} FROM mapped WHERE _state = 'other_day' ORDER BY ALL"
        ).to_arrow_table()
        file = self.work / "losers" / f"{self.table.name}.parquet"
        if rows.num_rows:
            write(file, rows.cast(schema(columns)))
        _replace_if_other(
            staged, losers_part(self.paths, self.table), file if rows.num_rows else None
        )

    def _stage_quarantine(self, staged: Staged) -> None:
        aside = (
            f"SELECT '{self.table.name}' AS table_name, _state AS kind, _reason AS reason,"
            " _file AS file, _row AS row, _payload AS payload, _day"
            " FROM mapped WHERE _state IN ('broken', 'excluded', 'late')"
        )
        folder = self.work / "quarantine" / self.table.name
        files = write_days(
            self.connection,
            f"SELECT * FROM ({aside}) WHERE _day IS NOT NULL"
            " ORDER BY _day, file, row, kind, reason, payload",
            QUARANTINE.columns,
            lambda day: folder / f"{day}.parquet",
        )
        for day in self.touched:
            _replace_if_other(staged, quarantine_part(self.paths, self.table, day), files.get(day))
        place = quarantine_part(self.paths, self.table, None)
        undated = self._undated(aside, place)
        if undated.num_rows:
            write(folder / "undated.parquet", undated)
        _replace_if_other(staged, place, folder / "undated.parquet" if undated.num_rows else None)

    def _undated(self, aside: str, place: Path) -> pa.Table:
        """Rows and files without a day: those of unchanged files as before, and the new ones."""
        bad = pa.table(
            {
                "kind": pa.array([b.kind for b in self.unreadable], pa.string()),
                "file": pa.array([b.file for b in self.unreadable], pa.string()),
                "row": pa.array([b.row for b in self.unreadable], pa.int64()),
                "reason": pa.array([b.reason for b in self.unreadable], pa.string()),
            }
        )
        self._register("unreadable", bad)
        query = (
            f"SELECT * EXCLUDE (_day) FROM ({aside}) WHERE _day IS NULL"
            f" UNION ALL SELECT '{self.table.name}', kind, reason, file, row, NULL"
            " FROM unreadable"
        )
        kept = self.before.undated.keys() - self.changes
        if kept and place.exists():
            self._register("kept", pa.table({"name": pa.array(sorted(kept), pa.string())}))
            query += (
                f" UNION ALL SELECT * FROM read_parquet('{place}')"
                " WHERE file IN (SELECT name FROM kept)"
            )
        ordered = f"SELECT * FROM ({query}) ORDER BY file, row NULLS FIRST, kind, reason, payload"
        return self.connection.sql(ordered).to_arrow_table().cast(schema(QUARANTINE.columns))

    def _names(self) -> list[str]:
        return [column.name for column in (*self.table.columns, *PROVENANCE)]

    def _register(self, name: str, table: pa.Table) -> None:
        self.connection.register(name, table)


def _replace_if_other(staged: Staged, place: Path, file: Path | None) -> None:
    if file is None:
        if place.exists():
            staged.moves[place] = None
    elif not place.exists() or sha256(place) != sha256(file):
        staged.moves[place] = file


def _day_table(days: Iterable[str]) -> pa.Table:
    values = [date.fromisoformat(day) for day in sorted(days)]
    return pa.table({"day": pa.array(values, pa.date32())})


def _put_aside(rows: DayState) -> int:
    return rows.broken + rows.excluded


def _fingerprint(mapping: Mapping, key: bytes) -> str:
    """Of everything but the raw files that a table's landing follows from."""
    parts = [
        mapping.select,
        {key: mapping.shop.raw[key].model_dump() for key in mapping.keys},
        asdict(mapping.table),
        [
            getattr(mapping.shop.retention, name, None)
            for name in (mapping.table.name, "quarantine")
        ],
        pseudonym(key, "the key itself"),
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
