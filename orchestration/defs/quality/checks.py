"""Each stage of the audit is one step; each of its checks shows on the asset it is about."""

from collections.abc import Iterator

from dagster import (
    AssetCheckExecutionContext,
    AssetCheckResult,
    AssetChecksDefinition,
    AssetCheckSeverity,
    AssetCheckSpec,
    AssetKey,
    MetadataValue,
    multi_asset_check,
)

from audit.catalogue import CATALOGUE, STAGES, CheckSpec
from audit.results import Check
from core.shop import Shop
from orchestration.lib.keys import key, step
from orchestration.lib.night import tonight


def checks(shop: Shop) -> list[AssetChecksDefinition]:
    """The stages of one shop's audit."""
    return [_stage(shop, stage) for stage in STAGES]


def _asset(shop: Shop, spec: CheckSpec) -> AssetKey:
    if spec.stage == "landing":
        table = spec.table.removeprefix("landing_")
        # the row accounting is about all tables; what is missing from them is in the quarantine
        return key(shop, "landing", "quarantine" if table == "accounting" else table)
    layer = {
        "features": "feature_store",
        "recommendations": "models",
        "predictions": "models",
    }.get(spec.stage, spec.stage)
    return key(shop, layer, spec.table)


def dagster_name(name: str) -> str:
    """A check's stable name as Dagster allows it: no dots."""
    return name.replace(".", "__")


def _stage(shop: Shop, stage: str) -> AssetChecksDefinition:
    catalogue = {spec.name: spec for spec in CATALOGUE[stage]}
    specs = [
        AssetCheckSpec(
            dagster_name(spec.name),
            asset=_asset(shop, spec),
            blocking=spec.blocking,
            description=spec.description,
        )
        for spec in catalogue.values()
    ]

    @multi_asset_check(
        name=f"{shop.name}__audit_{stage}",
        specs=specs,
        description=f"Great Expectations on the {stage} of the night, inside DuckDB.",
        pool=step(shop)["pool"],
    )
    def audit(context: AssetCheckExecutionContext) -> Iterator[AssetCheckResult]:
        from audit.suites import run

        night = tonight(context, shop)
        counted = stage in ("landing", "marts")
        counts = night.recall("landing")["tables"] if counted else None
        results = run(stage, shop, night.paths, night.night, counts)
        failed = [check for check in results if not check.passed]
        context.log.info(f"{len(results) - len(failed)} of {len(results)} checks passed")
        for check in results:
            yield _result(shop, catalogue[check.name], check)

    return audit


def _result(shop: Shop, spec: CheckSpec, check: Check) -> AssetCheckResult:
    return AssetCheckResult(
        asset_key=_asset(shop, spec),
        check_name=dagster_name(check.name),
        passed=check.passed,
        severity=AssetCheckSeverity.ERROR if check.blocking else AssetCheckSeverity.WARN,
        description=check.message,
        metadata={
            "observed": check.observed,
            "expected": check.expected,
            "failed rows": check.failed_rows,
            "sample": MetadataValue.json(check.sample),
        },
    )
