"""What the Makefile's commands do: run a night, run a range, start the UI."""

from __future__ import annotations

import os
import re
import shutil
import sys
import time
import warnings
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from core import access
from core.paths import Paths, var_folder
from core.profile import check_servers, servers, settings_file
from core.shop import ROOT, Shop, ShopError, load_shop
from orchestration.lib.summary import summary


def run_night(
    name: str,
    data: Path | None,
    scale: str | None,
    night: date | None,
    force: bool,
    rebuild: bool = False,
) -> bool:
    """Run one whole night of a shop, unless the very same night is published already."""
    began = time.monotonic()
    shop = load_shop(name)
    paths = Paths(shop.name)
    # a refused command changes nothing
    chosen = shop.check_night(night or shop.default_night or shop.end or _yesterday())
    if chosen > _yesterday():
        raise ShopError(f"night {chosen} is not over yet: the last one is {_yesterday()} (UTC)")
    if not _alone(paths):
        return False
    if data:
        _link_raw(paths, data)
    rescaled = _choose_scale(paths, scale)
    if rebuild or rescaled:
        _start_anew(paths)
    elif not force and _published(shop, paths, chosen):
        print(f"Nothing has changed since night {chosen} of {shop.title} was published.\n")
        print(summary(paths))
        return True
    print(f"{shop.title}: night {chosen}", flush=True)
    if not _execute(shop, chosen, chosen):
        return False
    print(summary(paths))
    print(f"Took {time.monotonic() - began:.0f} s.")
    return True


def run_backfill(name: str, first: date, last: date) -> bool:
    """Run the nights from `first` to `last` as one run; the marts end up as of `last`."""
    shop = load_shop(name)
    if last < first:
        raise ShopError(f"the range ends ({last}) before it starts ({first})")
    for night in (first, last):
        shop.check_night(night)
    if not _alone(Paths(shop.name)) or not _execute(shop, first, last):
        return False
    print(summary(Paths(name)))
    return True


def run_search(name: str, night: date | None, trials: int, seconds: float) -> bool:
    """Look for better settings of a shop's recommender: a run of its job, shown in the UI."""
    shop = load_shop(name)
    chosen = shop.check_night(night or shop.default_night or shop.end or _yesterday())
    budget = {"night": chosen.isoformat(), "trials": trials, "seconds": seconds}
    config = {"ops": {f"{name}_search_settings": {"config": budget}}}
    return not _run_job(shop, f"{name}_search", config)


def run_ui(port: int) -> bool:
    """Dagster's webserver and daemon, until they are stopped."""
    prepare_environment()
    command = [str(Path(sys.executable).parent / "dagster"), "dev", "--workspace"]
    command += [str(ROOT / "workspace.yaml"), "--port", str(port)]
    os.chdir(ROOT)
    os.execv(command[0], command)


def prepare_environment() -> None:
    """Dagster's home below `var/` with the profile's settings, and every telemetry off."""
    check_servers()
    home = var_folder() / "dagster"
    with access.published():
        home.parent.mkdir(parents=True, exist_ok=True)
    home.mkdir(exist_ok=True)
    access.allow(home, 0o700)
    shutil.copyfile(settings_file(ROOT / "dagster.yaml"), home / "dagster.yaml")
    os.environ["DAGSTER_HOME"] = str(home)
    os.environ["PERENNIAL_VAR"] = str(var_folder())
    for name, value in {
        "GX_ANALYTICS_ENABLED": "false",
        "DBT_SEND_ANONYMOUS_USAGE_STATS": "false",
        "DO_NOT_TRACK": "1",
        "FEAST_USAGE": "False",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        # dagster-dbt pulls an accelerator that a newer sqlglot warns about in every process
        "PYTHONWARNINGS": "ignore:sqlglot:UserWarning",
    }.items():
        os.environ.setdefault(name, value)


def _alone(paths: Paths) -> bool:
    """Whether no other process runs a night of this shop, which holds until this one ends."""
    from dagster import Failure

    from orchestration.lib.night import hold

    try:
        hold(paths)
    except Failure as refused:
        print(refused.description, file=sys.stderr)
        return False
    return True


def _execute(shop: Shop, first: date, last: date) -> bool:
    """One run of the nightly job, recorded where the UI shows it; says why when it failed."""
    paths = Paths(shop.name)
    checks = paths.audit(last) / "data_docs" / "index.html"
    before, checks_before = _stamp(paths.marts), _stamp(checks)
    try:
        reasons = _run_night(shop, first, last)
    except Exception as error:
        # Dagster could not even keep its own record: on a disk without space, for one
        reasons = [f"{type(error).__name__}: {error}"]
        print(reasons[0].splitlines()[0], file=sys.stderr)
        if not disk_trouble(reasons[0]):
            raise
    if reasons:
        published = _stamp(paths.marts) != before
        print(_failure(paths, last, published, "\n".join(reasons)), file=sys.stderr)
        if _stamp(checks) != checks_before:
            print(f"Every check of the night, with sample rows: {checks}", file=sys.stderr)
    return not reasons


def _run_night(shop: Shop, first: date, last: date) -> list[str]:
    """Run the nightly job in this process; the errors of the steps that failed."""
    from dagster._core.storage.tags import (
        ASSET_PARTITION_RANGE_END_TAG,
        ASSET_PARTITION_RANGE_START_TAG,
    )

    # one partition, or a range of them in one run
    tags = {
        ASSET_PARTITION_RANGE_START_TAG: first.isoformat(),
        ASSET_PARTITION_RANGE_END_TAG: last.isoformat(),
    }
    nights: dict[str, Any] = (
        {"partition_key": last.isoformat()} if first == last else {"tags": tags}
    )
    return _run_job(shop, f"{shop.name}_night", {}, **nights)


def _run_job(shop: Shop, name: str, config: dict[str, Any], **how: Any) -> list[str]:
    """Run a job in this process; the errors of the steps that failed."""
    prepare_environment()
    warnings.filterwarnings("ignore", message="sqlglot")
    from dagster import DagsterInstance

    from orchestration.definitions import defs
    from orchestration.lib.dead_runs import end_dead_runs

    job = defs.resolve_job_def(name)
    with servers(), DagsterInstance.get() as instance:
        end_dead_runs(instance, shop.name)
        result = job.execute_in_process(
            run_config={"loggers": {"night": {}}, **config},
            instance=instance,
            raise_on_error=False,
            **how,
        )
    failed = [event for event in result.all_events if event.is_step_failure]
    errors = [event.step_failure_data.error for event in failed]
    return [] if result.success else ["failed", *map(str, errors)]


def _start_anew(paths: Paths) -> None:
    """Have everything landed and the warehouse built as on the first night."""
    from ingest.landing import start_anew

    start_anew(paths)
    (paths.home / "warehouse.json").unlink(missing_ok=True)


def _published(shop: Shop, paths: Paths, night: date) -> bool:
    from orchestration.lib.manifest import is_published
    from orchestration.lib.night import Night

    return is_published(Night(shop, paths, night))


def _choose_scale(paths: Paths, scale: str | None) -> bool:
    """Remember the size of a simulated shop; True when it is another than last time."""
    path = paths.home / "scale"
    before = path.read_text() if path.exists() else None
    if scale is None or scale == before:
        return False
    path.write_text(scale)
    return before is not None


def _link_raw(paths: Paths, data: Path) -> None:
    """Let the shop's raw folder be `data`, where its files stay untouched."""
    target = data.expanduser().resolve()
    if not target.is_dir():
        raise ShopError(f"DATA={data} is not a folder")
    if paths.raw.is_symlink():
        paths.raw.unlink()
    elif paths.raw.exists():
        raise ShopError(f"{paths.raw} holds files already: move them away to use DATA={data}")
    paths.raw.symlink_to(target, target_is_directory=True)


def _yesterday() -> date:
    """The last UTC day that is over, for a live shop when no night is named."""
    return (datetime.now(UTC) - timedelta(days=1)).date()


def _stamp(file: Path) -> tuple[int, int] | None:
    """Another one means that the file was replaced."""
    return (file.stat().st_ino, file.stat().st_mtime_ns) if file.exists() else None


def _failure(paths: Paths, night: date, published: bool, reasons: str) -> str:
    if published:
        what = f"Night {night} is published, but a step after that failed: run the night again."
    else:
        kept = "is untouched" if paths.marts.exists() else "does not exist yet"
        what = f"Night {night} failed and was not published; {paths.marts} {kept}."
    advice = disk_trouble(reasons) or "`make ui` shows the run."
    return f"{what} The lines above say which step or check failed and why; {advice}"


def disk_trouble(reason: str) -> str | None:
    """What to do when it was the disk that failed a night; None when it was something else."""
    var = var_folder()
    full = r"No space left|disk is full|quota exceeded|max_temp_directory_size"
    # SQLite and DuckDB have other words too for a disk that is full to the last byte
    there = next(folder for folder in (var, *var.parents) if folder.exists())
    if re.search(full, reason, re.IGNORECASE) or shutil.disk_usage(there).free < 1 << 20:
        return f"no space is left on the disk of {var}: free some and run the night again."
    barred = r"Read-only file system|readonly database|Permission denied|unable to open database"
    if re.search(barred, reason):
        folders = [path for path in (var, *sorted(var.rglob("*/"))) if not os.access(path, os.W_OK)]
        return (
            f"the night's user may not write to {folders[0] if folders else var}: make it and all "
            "below it writable and run the night again."
        )
    return None
