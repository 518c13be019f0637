"""The command line behind the Makefile: `python -m orchestration run|backfill|backup|...`."""

from __future__ import annotations

import argparse
import os
import sys
from datetime import date
from pathlib import Path
from typing import NoReturn

from core.access import private
from core.profile import ProfileError
from core.shop import ShopError
from core.vault import VaultError
from orchestration.lib.commands import disk_trouble, run_backfill, run_night, run_search, run_ui


class _Parser(argparse.ArgumentParser):
    """Says what is wrong, without the usage of a command that most people run through make."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{message}\n")


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a day like 2026-06-30") from None


def main(arguments: list[str] | None = None) -> int:
    """Run one command; 0 when it went well, 1 when a night failed, 2 when it was asked wrongly."""
    parser = _Parser(prog="python -m orchestration", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="run one whole night")
    run.add_argument("--shop", default="demo")
    run.add_argument("--data", type=Path, help="folder of the shop's raw files")
    run.add_argument("--scale", choices=["small", "default", "large"], help="size of the demo shop")
    run.add_argument("--night", type=_day, help="YYYY-MM-DD")
    run.add_argument("--force", action="store_true", help="run even when nothing has changed")
    run.add_argument(
        "--rebuild", action="store_true", help="land everything anew, however late it came"
    )
    backfill = commands.add_parser("backfill", help="run a range of nights as one run")
    backfill.add_argument("--shop", default="demo")
    backfill.add_argument("--from", dest="first", type=_day, required=True)
    backfill.add_argument("--to", dest="last", type=_day, required=True)
    backup = commands.add_parser("backup", help="write the whole state into one encrypted file")
    backup.add_argument("--shop", default="demo")
    backup.add_argument("--to", type=Path, required=True, help="folder for the file")
    backup.add_argument("--plain", action="store_true", help="without encryption")
    backup.add_argument("--secrets", action="store_true", help="with the pseudonym key")
    restore = commands.add_parser("restore", help="bring back a kept night, or a whole backup")
    restore.add_argument("--shop", default="demo")
    wanted = restore.add_mutually_exclusive_group(required=True)
    wanted.add_argument("--night", type=_day, help="YYYY-MM-DD, one that is kept")
    wanted.add_argument("--from", dest="archive", type=Path, help="a file of `backup`")
    search = commands.add_parser("search", help="look for better settings of the recommender")
    search.add_argument("--shop", default="demo")
    search.add_argument("--night", type=_day, help="YYYY-MM-DD; its held-out days stay unseen")
    search.add_argument("--trials", type=int, default=20)
    search.add_argument("--seconds", type=float, default=1800)
    why = commands.add_parser("why", help="which past events put the items on a shopper's list")
    why.add_argument("--shop", default="demo")
    why.add_argument("--user", required=True, help="the shopper's pseudonym")
    ui = commands.add_parser("ui", help="start Dagster's webserver and daemon")
    ui.add_argument("--port", type=int, default=3000)
    asked = parser.parse_args(arguments)
    private()
    done = True
    try:
        if asked.command == "run":
            done = run_night(
                asked.shop, asked.data, asked.scale, asked.night, asked.force, asked.rebuild
            )
        elif asked.command == "backfill":
            done = run_backfill(asked.shop, asked.first, asked.last)
        elif asked.command == "search":
            done = run_search(asked.shop, asked.night, asked.trials, asked.seconds)
        elif asked.command == "backup":
            from orchestration.lib import state

            state.backup(asked.shop, asked.to, asked.plain, asked.secrets)
        elif asked.command == "restore":
            from orchestration.lib import state

            if asked.night:
                state.restore_night(asked.shop, asked.night)
            else:
                state.restore_backup(asked.shop, asked.archive)
        elif asked.command == "why":
            from orchestration.lib.why import why as explain

            explain(asked.shop, asked.user)
        else:
            done = run_ui(asked.port)
    except (ShopError, ProfileError, VaultError) as error:
        print(error, file=sys.stderr)
        return 2
    except OSError as error:
        advice = disk_trouble(str(error))
        if advice is None:
            raise
        print(f"{error}: {advice}", file=sys.stderr)
        return 1
    return 0 if done else 1


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # the bindings of DuckDB print pages about leaks while the interpreter is torn down
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    sys.exit(code)
