"""Erasing a person: from every file under `var/` but the shop's own, proven by a search.

The person is dropped at the door from then on; what was learned from them is due for retraining.
Each step may be killed and run again: first comes what must not be forgotten (the models that knew
the person, the door), then the rows go file by file, and the search is last.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

from core.duck import connect
from core.paths import Paths, var_folder
from core.shop import Shop, shop_names
from ingest import ledger
from ingest.contract import TABLES
from ingest.landing import land
from ingest.parts import losers_part, quarantine_part
from ingest.pseudonym import forget_at_the_door, load_forgotten, load_key, pseudonym
from ml.registry import DUE, STARTED_FROM, model_of
from privacy import NobodyFound, PrivacyError, online
from privacy.formats import DRAFT, erase, find, is_encrypted
from privacy.person import Person
from privacy.raw import erase_raw, is_ours, raw_rows
from privacy.rotation import awaits_a_night

_SECRETS = ("secrets",)
_CARDS = "*/models/*/*/card.json"


@dataclass(frozen=True)
class Forgotten:
    """What was removed by place, which models are due, and what lies out of reach."""

    removed: dict[str, int]
    searched: dict[str, int]
    """files looked through after it, by place; the person was in none"""
    due: list[str]
    """versions of this shop; after them `<shop> <version>` of what began with one of those"""
    not_ours: list[str]
    """raw files outside `var/` that hold the person: the shop's own, left as they are"""
    encrypted: list[str]


def forget(
    shop: Shop, paths: Paths, identity: str, say: Callable[[str], object] = print
) -> Forgotten:
    """Erase a person. The caller holds the shop's lock.

    Raises NobodyFound, having changed nothing, for an id that is nowhere and was not erased before;
    PrivacyError when a file still holds the person at the end, or when that cannot be told.
    """
    if awaits_a_night(paths):
        raise PrivacyError(
            f"the pseudonym key was rotated and {paths.marts} is still the file from before, in "
            f"which nobody can be found any more: run the night (make run SHOP={shop.name}), then "
            "this again"
        )
    for left in var_folder().rglob(f"*{DRAFT}"):
        left.unlink()
    person = Person(identity, pseudonym(load_key(paths), identity))
    say(f"looking for {identity!r} in the raw files")
    raw = raw_rows(shop, paths, identity)
    person = replace(person, columns=frozenset(raw.columns))
    say("searching")
    before = {path: found for path in _files(paths) if (found := find(path, person))}
    if not (raw.rows or before or identity in load_forgotten(paths)):
        raise NobodyFound(
            f"nobody with the id {identity!r} is in the raw files of {shop.title} or under "
            f"{var_folder()}: look at the spelling; nothing was changed"
        )
    due = _mark_models(paths, person)
    forget_at_the_door(paths, identity)
    # the next night builds everything anew, and no night is `published already`
    paths.published_record.unlink(missing_ok=True)
    for record in ("warehouse.json", "audited.json"):
        (paths.home / record).unlink(missing_ok=True)
    for kept in paths.kept_nights.glob("*/published.json"):  # nor after one of them is restored
        _write_json(kept, json.loads(kept.read_text()) | {"code": ""})
    # what the raw files tell of the person is needed until all the rest is done
    last = (paths.landing, paths.quarantine, *(paths.raw / file for file in raw.rows))
    say("erasing")
    others = [path for path in before if not any(path.is_relative_to(p) for p in last)]
    _erase_from(person, others)
    not_ours = [] if is_ours(paths) else sorted(str(paths.raw / file) for file in raw.rows)
    if is_ours(paths):
        erase_raw(shop, paths, person, raw.rows)
        if left_over := raw_rows(shop, paths, identity).rows:
            raise PrivacyError(f"these raw files still hold the person: {', '.join(left_over)}")
    say("landing the days of the person again")
    _land_again(shop, paths, person, before)
    _erase_from(person, before)
    removed = Counter(_counts(paths, before)) + online.erase(paths, person.pseudonym)
    searched, encrypted = _prove(paths, person)
    return Forgotten(dict(removed), searched, due, not_ours, encrypted)


def _erase_from(person: Person, files: Iterable[Path]) -> None:
    for path in files:
        if path.exists() and find(path, person):
            erase(path, person)


def table(result: Forgotten) -> str:
    """place | rows removed | search"""
    places = sorted(result.removed.keys() | result.searched.keys())
    width = max(map(len, places), default=5)
    lines = [f"{'place':{width}}  rows removed  files searched  found"]
    lines += [
        f"{place:{width}}  {result.removed.get(place, 0):12,}"
        f"  {result.searched.get(place, 0):14,}  {0:5}"
        for place in places
    ]
    return "\n".join(lines)


def _counts(paths: Paths, found: dict[Path, int]) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for path, number in found.items():
        counts[_place(paths, path)] += number
    return counts


def _place(paths: Paths, path: Path) -> str:
    inside = path.relative_to(var_folder())
    own = inside.parts[0] == paths.shop
    return "/".join(inside.parts[1:2] if own else inside.parts[:1])


def _files(paths: Paths) -> Iterator[Path]:
    """Every file under `var/` but those of other shops, of keys, and of folders linked in."""
    others = set(shop_names()) - {paths.shop}
    pending = [var_folder()]
    while pending:
        for path in sorted(pending.pop().iterdir()):
            inside = path.relative_to(var_folder()).parts
            if inside[0] in others or inside[1:2] == _SECRETS:
                continue
            if path.is_symlink() and not path.resolve().is_relative_to(var_folder()):
                continue
            if path.is_dir():
                pending += [path] if not path.is_symlink() else []
            elif path.is_file() and path.name != ".lock":
                yield path


def _prove(paths: Paths, person: Person) -> tuple[dict[str, int], list[str]]:
    searched: Counter[str] = Counter()
    encrypted, left = [], []
    for path in _files(paths):
        searched[_place(paths, path)] += 1
        if path.stat().st_size and is_encrypted(path):
            encrypted.append(str(path))
        elif find(path, person):
            left.append(str(path))
    if left:
        raise PrivacyError(
            "the person is still in: " + ", ".join(left) + " (run this again; a file that stays "
            "is in a form that cannot be written anew: delete it)"
        )
    return dict(searched), encrypted


def _mark_models(paths: Paths, person: Person) -> list[str]:
    """Put a flag on the card of every model that was trained with events of the person.

    And of every model, of any shop, that began with one of those.
    """
    first = _first_day(paths, person)
    due = []
    for path in sorted(paths.models.glob("*/*/card.json")):
        card = json.loads(path.read_text())
        knew = first is not None and first.isoformat() <= card.get("data_until", "9999")
        if knew and not card.get(DUE):
            _write_json(path, card | {DUE: True})
        if knew or card.get(DUE):
            due.append(path.parent.name)
    return due + _mark_begun_with({model_of(paths.shop, version) for version in due})


def _mark_begun_with(due: set[str]) -> list[str]:
    """Flag what began with one of these models, in any shop, and what began with that in turn."""
    cards = {path: json.loads(path.read_text()) for path in var_folder().glob(_CARDS)}
    marked: list[str] = []
    while begun := sorted(path for path in cards if cards[path].get(STARTED_FROM) in due):
        for path in begun:
            card = cards.pop(path)
            if not card.get(DUE):
                _write_json(path, card | {DUE: True})
            marked.append(model_of(path.parts[-5], path.parent.name))
        due = {*marked}
    return marked


def _write_json(path: Path, content: dict[str, Any]) -> None:
    new = path.with_name(path.name + ".next")
    new.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")
    new.replace(path)


def _first_day(paths: Paths, person: Person) -> date | None:
    with connect() as connection:
        if not any((paths.landing / "events").glob("*/*.parquet")):
            return None
        found = connection.execute(
            "SELECT min(event_ts)::DATE FROM read_parquet(?, hive_partitioning = false)"
            " WHERE user_id = ?",
            [f"{paths.landing}/events/*/*.parquet", person.pseudonym],
        ).fetchall()
    return found[0][0]


def _land_again(shop: Shop, paths: Paths, person: Person, found: Collection[Path]) -> None:
    """Let the days and files be mapped again in which the landing or the quarantine has the person.

    The ledger names them as unfinished: a run that is killed here is made good by the next night.
    """
    place = paths.landing / "_ledger.json"
    known = ledger.load(place)
    if known.night is None:
        return
    for name, contract in TABLES.items():
        if not contract.personal:
            continue
        days = {
            file.parent.name.removeprefix("day=")
            for file in found
            if file.is_relative_to(paths.landing / name)
        } | _losing_days(losers_part(paths, contract), person)
        undated = quarantine_part(paths, contract, None)
        days |= {file.stem for file in found if file.parent == undated.parent and file != undated}
        if days:
            known.unfinished[name] = sorted({*known.unfinished.get(name, []), *days})
        if undated in found:  # its rows come from files that are read again as if they had changed
            for file in known.table(name).undated.keys() & known.files.keys():
                known.files[file].sha256, known.files[file].mtime_ns = "", 0
    ledger.save(place, known)
    land(shop, paths, known.night)


def _losing_days(losers: Path, person: Person) -> set[str]:
    """Days of the person's rows among those that lost to a row of another day."""
    if not losers.exists():
        return set()
    with connect() as connection:
        found = connection.execute(
            f"SELECT DISTINCT {TABLES[losers.stem].time}::DATE FROM read_parquet(?)"
            " WHERE user_id = ?",
            [str(losers), person.pseudonym],
        ).fetchall()
    return {day.isoformat() for (day,) in found}
