"""What Dagster loads: one set of definitions for every shop in `shops/`."""

import warnings

from dagster import BetaWarning, Definitions, in_process_executor

from core.shop import load_shop, shop_names
from orchestration.defs import shop_definitions
from orchestration.lib.console import night_console

# `backfill_policy` has been beta for years; one line per asset and process helps nobody
warnings.filterwarnings("ignore", category=BetaWarning)

defs = Definitions.merge(
    *(shop_definitions(load_shop(name)) for name in shop_names()),
    Definitions(executor=in_process_executor, loggers={"night": night_console}),
)
