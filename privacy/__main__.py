"""The command line behind `make forget`, `rotate-key` and `share`: `python -m privacy ...`."""

from __future__ import annotations

import argparse
import sys
from datetime import UTC, datetime

from core import access
from core.paths import Paths
from core.shop import ShopError, load_shop
from privacy import PrivacyError
from privacy.forget import Forgotten, forget, table
from privacy.rotation import rotate
from privacy.share import share
from privacy.share import table as table_of_shared


def main(arguments: list[str] | None = None) -> int:
    """Run one command; 0 when all went well, 1 when not, 2 when it was asked wrongly."""
    parser = argparse.ArgumentParser(prog="python -m privacy", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    erasing = commands.add_parser("forget", help="erase a person")
    erasing.add_argument("--shop", default="demo")
    erasing.add_argument("--user", required=True, help="the shop's own id of the person")
    rotating = commands.add_parser("rotate-key", help="another pseudonym for everybody")
    rotating.add_argument("--shop", default="demo")
    sharing = commands.add_parser("share", help="aggregates for people outside the house")
    sharing.add_argument("--shop", default="demo")
    sharing.add_argument("--epsilon", type=float, help="privacy that this release may cost")
    asked = parser.parse_args(arguments)
    try:
        shop = load_shop(asked.shop)
        paths = Paths(shop.name)
        if asked.command == "forget" and not asked.user.strip():
            raise ShopError("USER is empty: name the shop's own id of the person")
        if not paths.home.exists():
            raise ShopError(f"{paths.home} does not exist: no night of {shop.title} has run here")
        if asked.command == "share":  # reads what is published, also while a night runs
            access.private()
            print(table_of_shared(*share(shop, paths, datetime.now(UTC), asked.epsilon)))
            return 0
        _hold(paths)
        if asked.command == "forget":
            _tell(forget(shop, paths, asked.user))
        else:
            _tell_rotated(shop.name, rotate(shop, paths))
    except ShopError as error:
        print(error, file=sys.stderr)
        return 2
    except PrivacyError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _hold(paths: Paths) -> None:
    from dagster import Failure

    from orchestration.lib.night import hold

    try:
        hold(paths)
    except Failure as error:
        raise ShopError(error.description) from error


def _tell(result: Forgotten) -> None:
    print(table(result))
    if result.due:
        print(f"Due for retraining, with the next night: {', '.join(result.due)}")
    if result.encrypted:
        print(f"Encrypted, not looked into: {', '.join(result.encrypted)}")
    if result.not_ours:
        print("Outside of var/, the shop's own files, left as they are; they hold the person:")
        print("\n".join(f"  {file}" for file in result.not_ours))
    print(
        "The person is dropped at the door from now on. The totals of the published marts follow "
        "with the next night: make run. A raw file that is delivered with the person again keeps "
        "them until this is run once more"
    )


def _tell_rotated(shop: str, gone: dict[str, list[str]]) -> None:
    print("A new pseudonym key is in place and the old one is gone.")
    if gone:
        print("Deleted, for it bore the old pseudonyms or is built from them:")
        print("\n".join(f"  {' '.join([place, *names])}" for place, names in gone.items()))
    print(
        "The published marts bear the old pseudonyms until the next night replaces them; until "
        f"then nobody can be erased. Run the night now: make run SHOP={shop}"
    )


if __name__ == "__main__":
    sys.exit(main())
