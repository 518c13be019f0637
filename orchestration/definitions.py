"""What Dagster loads: one set of definitions for every shop in `shops/`."""

import sys
import warnings
from collections.abc import Iterator

from dagster import BetaWarning, Definitions, in_process_executor

from core.shop import Shop, ShopError, load_shop, shop_names
from orchestration.defs import shop_definitions
from orchestration.lib.console import night_console

# `backfill_policy` has been beta for years; one line per asset and process helps nobody
warnings.filterwarnings("ignore", category=BetaWarning)


def _shops() -> Iterator[Shop]:
    """Every shop whose `shop.yml` can be read; a broken one must not stop the others' nights."""
    for name in shop_names():
        try:
            yield load_shop(name)
        except ShopError as error:
            print(f"left out: {error}", file=sys.stderr)


defs = Definitions.merge(
    *(shop_definitions(shop) for shop in _shops()),
    Definitions(executor=in_process_executor, loggers={"night": night_console}),
)
