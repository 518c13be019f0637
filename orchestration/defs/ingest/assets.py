"""Raw files of a shop, and the contract tables they land in."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from dagster import (
    AssetExecutionContext,
    AssetsDefinition,
    AssetSpec,
    Failure,
    MaterializeResult,
    MetadataValue,
    multi_asset,
)

from core.shop import Shop, ShopError
from ingest.contract import TABLES
from orchestration.lib.keys import OWNERS, key, landing_keys, step
from orchestration.lib.night import Night, tonight


def assets(shop: Shop) -> list[AssetsDefinition]:
    """The raw files and the landing of one shop."""
    return [_raw(shop), _landing(shop)]


def _raw(shop: Shop) -> AssetsDefinition:
    specs = [
        AssetSpec(
            key(shop, "raw", name),
            description=f"Raw files `{files.files}` as {shop.title} delivers them.",
            group_name=f"{shop.name}_ingest",
            owners=OWNERS,
            kinds={files.format},
        )
        for name, files in shop.raw.items()
    ]

    @multi_asset(name=f"{shop.name}__raw", specs=specs, **step(shop, retries=2))
    def raw(context: AssetExecutionContext) -> Iterator[MaterializeResult[Any]]:
        from ingest.fetch import fetch

        night = tonight(context, shop)
        try:
            said = fetch(shop, night.paths, night.night, read_scale(night))
        except (RuntimeError, ShopError) as error:
            # the message says what a person has to do: trying again by itself would not help
            raise Failure(str(error), allow_retries=False) from error
        if said:
            context.log.info(said)
        if not any(any(night.paths.raw.glob(files.files)) for files in shop.raw.values()):
            globs = ", ".join(files.files for files in shop.raw.values())
            raise Failure(
                f"no file in {night.paths.raw} matches {globs}: is it the folder of "
                f"{shop.name}? DATA=<folder> names another one, SHOP=<name> another shop",
                allow_retries=False,
            )
        for name, files in shop.raw.items():
            found = sorted(night.paths.raw.glob(files.files))
            yield MaterializeResult(
                asset_key=key(shop, "raw", name),
                metadata={
                    "files": len(found),
                    "bytes": sum(path.stat().st_size for path in found),
                    "folder": MetadataValue.path(str(night.paths.raw)),
                },
            )

    return raw


def read_scale(night: Night) -> str:
    """The size that `make run SCALE=` chose for a simulated shop; `default` when never chosen."""
    path = night.paths.home / "scale"
    return path.read_text().strip() if path.exists() else "default"


def _landing(shop: Shop) -> AssetsDefinition:
    sources = [key(shop, "raw", name) for name in shop.raw]
    grains = {name: table.grain for name, table in TABLES.items()}
    grains["quarantine"] = "One row per raw row that did not land, with the reason."
    specs = [
        AssetSpec(
            asset_key,
            deps=sources,
            description=grains[asset_key.path[-1]],
            group_name=f"{shop.name}_ingest",
            owners=OWNERS,
            kinds={"parquet", "duckdb"},
        )
        for asset_key in landing_keys(shop)
    ]

    @multi_asset(name=f"{shop.name}__landing", specs=specs, **step(shop))
    def landing(context: AssetExecutionContext) -> Iterator[MaterializeResult[Any]]:
        from ingest.landing import land
        from privacy.retention import expire

        night = tonight(context, shop)
        if gone := expire(shop, night.paths, night.night):
            context.log.info(f"past their retention period: {', '.join(gone)}")
        try:
            landed = land(shop, night.paths, night.night, datetime.now(UTC).date())
        except ShopError as error:
            raise Failure(str(error), allow_retries=False) from error
        night.record("landing", as_record(landed))
        touched = len(landed.touched_days)
        context.log.info(
            f"{landed.files} raw files, {len(landed.changed_files)} new or changed; "
            f"{touched} days to process"
        )
        quarantined = sum(counts.quarantined for counts in landed.tables.values())
        for name, counts in landed.tables.items():
            context.log.info(f"{name}: {counts}")
            yield MaterializeResult(
                asset_key=key(shop, "landing", name),
                metadata={"dagster/row_count": counts.landed, **vars(counts), "days": touched},
            )
        yield MaterializeResult(
            asset_key=key(shop, "landing", "quarantine"),
            metadata={
                "dagster/row_count": quarantined
                + sum(counts.excluded for counts in landed.tables.values()),
                "broken": quarantined,
                "worst_reason": landed.worst_reason or "none",
            },
        )

    return landing


def as_record(landed: Any) -> dict[str, Any]:
    """What later steps recall of a landing."""
    return {
        "tables": {name: vars(counts) for name, counts in landed.tables.items()},
        "touched_days": [day.isoformat() for day in landed.touched_days],
        "files": landed.files,
        "changed_files": landed.changed_files,
        "worst_reason": landed.worst_reason,
        "fingerprint": landed.fingerprint,
    }
