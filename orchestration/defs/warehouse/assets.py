"""The dbt models of one shop as assets, built in one step; dbt's tests become asset checks."""

from collections.abc import Iterator, Mapping
from typing import Any

from dagster import AssetExecutionContext, AssetKey, AssetsDefinition, Output
from dagster_dbt import (
    DagsterDbtTranslator,
    DagsterDbtTranslatorSettings,
    DbtCliResource,
    dbt_assets,
)

from core.duck import connect
from core.shop import Shop
from orchestration.lib import dbt
from orchestration.lib.ahead import load_ahead
from orchestration.lib.keys import OWNERS, key, step
from orchestration.lib.night import Night, tonight


class _Translator(DagsterDbtTranslator):
    """Puts the project under the shop's name: `<shop>/<schema>/<model>`; sources are landed."""

    def __init__(self, shop: Shop) -> None:
        super().__init__(DagsterDbtTranslatorSettings(enable_asset_checks=True))
        self.shop = shop

    def get_asset_key(self, dbt_resource_props: Mapping[str, Any]) -> AssetKey:
        layer = dbt_resource_props.get("source_name") or dbt_resource_props["schema"]
        return key(self.shop, layer, dbt_resource_props["name"])

    def get_group_name(self, dbt_resource_props: Mapping[str, Any]) -> str:
        return f"{self.shop.name}_warehouse"

    def get_owners(self, dbt_resource_props: Mapping[str, Any]) -> list[str]:
        return OWNERS


def _with_row_counts(
    context: AssetExecutionContext, night: Night, events: list[Any]
) -> Iterator[Any]:
    """dbt's events, each built table with its rows beside the seconds that dbt tells."""
    with connect(night.paths.warehouse, read_only=True) as warehouse:
        tables = warehouse.execute("SELECT schema_name, table_name FROM duckdb_tables()").fetchall()
        for event in events:
            if not isinstance(event, Output):
                yield event
                continue
            _, schema, model = context.asset_key_for_output(event.output_name).path
            if (schema, model) not in tables:  # to count a view is to open every landed file
                yield event
                continue
            counted = warehouse.execute(f'SELECT count(*) FROM {schema}."{model}"').fetchall()
            rows = {"dagster/row_count": counted[0][0]}
            yield event.with_metadata({**event.metadata, **rows})


def assets(shop: Shop) -> list[AssetsDefinition]:
    """Every model of the dbt project for one shop."""
    settings = step(shop)

    @dbt_assets(
        name=f"{shop.name}__warehouse",
        manifest=dbt.manifest(),
        dagster_dbt_translator=_Translator(shop),
        partitions_def=settings["partitions_def"],
        backfill_policy=settings["backfill_policy"],
        retry_policy=settings["retry_policy"],
        pool=settings["pool"],
    )
    def warehouse(context: AssetExecutionContext) -> Iterator[Any]:
        night = tonight(context, shop)
        landed = dbt.landing_digests(night.paths)
        first = dbt.reprocess_from(night, landed)
        command = ["build", "--exclude-resource-type", "unit_test"]
        if first is None:
            command.append("--full-refresh")
        context.log.info(
            f"building {first or shop.start} to {night.night}" + (" from scratch" * (first is None))
        )
        command += ["--vars", dbt.variables(shop)]
        cli = DbtCliResource(
            project_dir=str(dbt.PROJECT),
            profiles_dir=str(dbt.PROJECT),
            dbt_executable=str(dbt.EXECUTABLE),
        )
        target = night.paths.home / "dbt"
        load_ahead()  # dbt works in a process of its own, and this one would only wait
        events: list[Any] = []
        with dbt.building(night.night, first or shop.start):
            invocation = cli.cli(command, context=context, target_path=target)
        try:
            with dbt.quiet(context.log.info):
                events.extend(invocation.stream())
        except Exception:
            # a dbt left to itself would keep the next try out of the warehouse
            invocation.process.kill()
            invocation.process.wait()
            yield from events
            raise
        # told when dbt has ended and let go of the warehouse, so that the rows can be counted
        yield from _with_row_counts(context, night, events)
        dbt.remember_build(night, landed)

    return [warehouse]
