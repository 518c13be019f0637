"""Every check, declared: its stable id, the table it is about, whether it blocks, and its rule.

Light to import (no Great Expectations), so that orchestration can list the checks. In the SQL of a
rule `{batch}` is the check's own table; all others go by their plain names, and `getvariable(...)`
gives the night and the shop's thresholds (`audit.source` sets both up). To add a check, add a line.
"""

from __future__ import annotations

from dataclasses import dataclass

from ingest.contract import EVENT_TYPES, TABLES

STAGES = ("landing", "marts", "features", "recommendations", "predictions", "campaigns")

GRAIN: dict[str, tuple[str, ...]] = {
    "dim_users": ("user_id",),
    "dim_items": ("item_id",),
    "fct_events": ("event_id",),
    "fct_sessions": ("session_key",),
    "fct_orders": ("order_id",),
    "fct_order_lines": ("line_id",),
    "user_daily_activity": ("user_id", "activity_date"),
    "item_daily_stats": ("item_id", "stat_date"),
    "retention_cohorts": ("cohort_grain", "cohort", "kind", "period"),
    "repurchase_rates": ("cohort", "window_days"),
    "dwell_stats": ("stat_date", "event_type"),
    "funnel_daily": ("funnel_date",),
    "user_rfm": ("user_id",),
    "repurchase_survival": ("days",),
    "session_stats": ("stat_date", "visitor_kind"),
    "returning_revenue": ("month",),
    "cohort_value": ("cohort", "months"),
    "item_second_orders": ("item_id",),
    "metric_definitions": ("metric",),
    "segment_history": ("user_id", "kind", "from_night"),
    "recommendations": ("user_id", "rank"),
    "next_quarter": ("user_id", "part", "rank"),
    "campaign_audience": ("campaign", "user_id"),
    "campaign_results": ("campaign", "outcome_days"),
    "run_manifest": ("section", "name"),
    "user_predictions": ("user_id", "target", "horizon_days"),
    "prediction_quality": ("target", "horizon_days", "model", "metric"),
    "prediction_deciles": ("origin", "night", "target", "horizon_days", "decile"),
    "prediction_fairness": ("target", "horizon_days", "kind", "grp", "metric"),
    "prediction_drift": ("target", "horizon_days", "feature"),
    "prediction_drivers": ("target", "horizon_days", "feature"),
}
PREDICTIONS = [
    name for name in GRAIN if name == "user_predictions" or name.startswith("prediction_")
]
# Tables that grow by the day, and what says which day a row is of. Their checks read the days since
# `audit.scope.since` as `{batch}`; the whole table goes by its plain name.
DAY_OF: dict[str, str] = {
    "landing_events": "day",
    "fct_events": "event_date",
    "fct_sessions": "ended_at",
    "fct_order_lines": "line_date",
    "user_daily_activity": "activity_date",
    "item_daily_stats": "stat_date",
    "dwell_stats": "stat_date",
    "user_behaviour_v1": "event_timestamp",
    "user_purchases_v1": "event_timestamp",
    "item_stats_v1": "event_timestamp",
}
EMBEDDING_DIMENSION = 384
TOP_K = 50


@dataclass(frozen=True)
class Rows:
    """No row may come out of `sql`; `observe` is a SELECT of one text that says what was seen.

    `unit` is what one such row stands for; '' when it is the table as a whole.
    """

    sql: str
    observe: str | None = None
    unit: str = "row"


@dataclass(frozen=True)
class EachColumn:
    """`bad` (a predicate over `{column}`) holds for no row, in any column of `type` like `like`."""

    keys: tuple[str, ...]
    bad: str
    type: str = "%"
    like: str = "%"


@dataclass(frozen=True)
class OneOf:
    """The column holds only these values (or NULL)."""

    column: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class Between:
    """The column lies within these bounds, inclusive (or is NULL)."""

    column: str
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class RowCount:
    """The table has at least `low` and at most `high` rows."""

    low: int = 1
    high: int | None = None


Rule = Rows | EachColumn | OneOf | Between | RowCount


@dataclass(frozen=True)
class CheckSpec:
    """One check: `name` is stable (`stage.table.what`), `description` says what must hold."""

    name: str
    table: str
    blocking: bool
    description: str
    rule: Rule

    @property
    def batch(self) -> str:
        """The view that the check reads: the recent days of a table that grows by the day."""
        return f"{self.table}_recent" if self.table in DAY_OF else self.table

    @property
    def unit(self) -> str:
        """What is counted when it fails: 'file' of so many files; '' for the table as a whole."""
        match self.rule:
            case Rows():
                return self.rule.unit
            case RowCount():
                return ""
            case OneOf() | EachColumn():
                return "value"
        return "row"

    @property
    def stage(self) -> str:
        """The stage it belongs to, which is the first part of its name."""
        return self.name.split(".")[0]


def _blocking(name: str, table: str, description: str, rule: Rule) -> CheckSpec:
    return CheckSpec(name, table, True, description, rule)


def _warning(name: str, table: str, description: str, rule: Rule) -> CheckSpec:
    return CheckSpec(name, table, False, description, rule)


def _key(stage: str, table: str, columns: tuple[str, ...]) -> CheckSpec:
    key = ", ".join(columns)
    empty = " OR ".join(f"{column} IS NULL" for column in columns)
    sql = (
        f"SELECT {key}, count(*) AS copies FROM {{batch}} GROUP BY ALL "
        f"HAVING count(*) > 1 OR {empty}"
    )
    day = DAY_OF.get(table)
    if day and day not in columns:  # a key of a recent day may be one of an older day too
        sql += (
            f" UNION ALL SELECT {key}, 2 FROM {table} WHERE {day} < getvariable('since') "
            f"AND {key} IN (SELECT {key} FROM {{batch}})"
        )
    return _blocking(
        f"{stage}.{table}.key",
        f"landing_{table}" if stage == "landing" else table,
        f"({key}) is never empty and never there twice",
        Rows(sql, unit="key"),
    )


def _landing_table(name: str) -> list[CheckSpec]:
    """What holds for every contract table as it landed."""
    table = TABLES[name]
    required = [column.name for column in table.columns if column.required]
    empty = " OR ".join(f"{column} IS NULL" for column in required)
    checks = [
        _key("landing", name, tuple(table.key.split(", "))),
        _blocking(
            f"landing.{name}.required",
            f"landing_{name}",
            f"{', '.join(required)} are never empty",
            Rows(f"SELECT _file, _row, {', '.join(required)} FROM {{batch}} WHERE {empty}"),
        ),
    ]
    if not table.snapshot:  # a catalogue may be older than the shop's first event
        checks.append(
            _blocking(
                f"landing.{name}.within_nights",
                f"landing_{name}",
                # a local first day may begin on the UTC day before
                f"{table.time} lies between the day before the shop's first and the night's end",
                Rows(
                    f"SELECT _file, _row, {table.time} FROM {{batch}} "
                    f"WHERE {table.time} < getvariable('start') - INTERVAL 1 DAY "
                    f"OR {table.time} >= getvariable('night_end')"
                ),
            )
        )
    if table.personal:
        checks.append(
            _blocking(
                f"landing.{name}.pseudonyms",
                f"landing_{name}",
                "user_id is a pseudonym, never the shop's own id or an address",
                Rows(
                    "SELECT _file, _row FROM {batch} "
                    "WHERE length(user_id) < 16 OR regexp_matches(user_id, '[^0-9A-Za-z_=-]')"
                ),
            )
        )
    return checks


_LANDING = [
    _blocking(
        "landing.accounting.balanced",
        "accounting",
        "every row read is landed, a duplicate, quarantined, excluded or left for its own night",
        Rows(
            "SELECT * FROM {batch} "
            "WHERE mapped <> landed + deduplicated + quarantined + excluded + later",
            "SELECT CASE WHEN count(*) = 0 THEN 'not evaluated: no counts were handed in' "
            "ELSE format('{:,} rows read', sum(mapped)::BIGINT) END FROM accounting",
            unit="table",
        ),
    ),
    _blocking(
        "landing.quarantine.files_readable",
        "quarantine",
        # a count of rows would not miss a whole file
        "every raw file can be read",
        Rows(
            "SELECT file, min(reason) AS reason FROM {batch} "
            "WHERE kind = 'broken' AND \"row\" IS NULL GROUP BY file",
            unit="file",
        ),
    ),
    _warning(
        "landing.quarantine.empty_files",
        "quarantine",
        "no raw file is without a byte",
        Rows(
            "SELECT DISTINCT file FROM {batch} WHERE kind = 'empty'",
            unit="file",
        ),
    ),
    _warning(
        "landing.quarantine.too_late",
        "quarantine",
        # stays until `make run REBUILD=1` takes the rows in, or their file is withdrawn
        "no row came after its day was closed (lookback_days); REBUILD=1 takes such rows in",
        Rows(
            "SELECT file, count(*) AS rows FROM {batch} WHERE kind = 'late' GROUP BY file",
            "SELECT format('{:,} rows came too late', count(*)) FROM quarantine "
            "WHERE kind = 'late'",
            unit="file",
        ),
    ),
    _blocking(
        "landing.quarantine.share",
        "quarantine",
        "of no table do more rows break the contract than max_quarantine_share",
        # ten rows may always break: a share of a handful says nothing
        Rows(
            """
            WITH reasons AS (
              SELECT table_name, reason, count(*) AS reason_rows,
                     min(file) AS example_file, min_by("row", (file, "row")) AS example_row
              FROM {batch} WHERE kind = 'broken' GROUP BY table_name, reason
            )
            SELECT table_name, round(broken / rows_read, 4) AS share, broken, rows_read,
                   reason AS worst_reason, reason_rows, example_file, example_row
            FROM reasons JOIN rows_read USING (table_name)
            WHERE broken > getvariable('max_quarantine_share') * rows_read
              AND (broken >= 10 OR broken = rows_read)
            QUALIFY row_number() OVER (
              PARTITION BY table_name ORDER BY reason_rows DESC, reason) = 1
            """,
            "SELECT format('{:,} of {:,} rows break the contract', sum(broken)::BIGINT, "
            "sum(rows_read)::BIGINT) FROM rows_read",
            unit="table",
        ),
    ),
    _blocking(
        "landing.events.not_empty", "landing_events", "there is at least one event", RowCount(1)
    ),
    _warning("landing.items.not_empty", "landing_items", "there is at least one item", RowCount(1)),
    *(check for name in TABLES for check in _landing_table(name)),
    _blocking(
        "landing.events.types",
        "landing_events",
        "event_type is one of the contract's",
        OneOf("event_type", EVENT_TYPES),
    ),
    _blocking(
        "landing.events.currency",
        "landing_events",
        "money is in the shop's currency, since amounts are added up",
        Rows(
            "SELECT currency, count(*) AS events, min(_file) AS example_file FROM {batch} "
            "WHERE event_type IN ('purchase', 'refund') AND currency <> getvariable('currency') "
            "GROUP BY currency",
            unit="currency code",
        ),
    ),
]

# The weeks are of days with events: a week in which the shop was closed is no fall in revenue.
_WEEKS = """
    WITH open_days AS (
      SELECT event_date, row_number() OVER (ORDER BY event_date DESC) AS back
      FROM fct_events WHERE event_type <> 'exposure' GROUP BY event_date
    ),
    weeks AS (
      SELECT coalesce(sum(gross_revenue) FILTER (back <= 7), 0) AS last_week,
             coalesce(sum(gross_revenue) FILTER (back > 7), 0) AS week_before,
             coalesce(max(back), 0) = 14 AS enough
      FROM open_days LEFT JOIN {batch} ON order_date = event_date WHERE back <= 14
    )"""

# How regularly the shop was open before the night, and whether it was on the night.
_OPEN = """
    WITH history AS (
      SELECT count(DISTINCT event_date) FILTER (
               event_date BETWEEN getvariable('night') - 28 AND getvariable('night') - 1
             ) AS open_days,
             coalesce(least(28, getvariable('night') - min(event_date)), 0) AS days,
             count(*) FILTER (event_date = getvariable('night')) AS tonight
      FROM {batch} WHERE event_type <> 'exposure'
    )"""

# Of the tables without a mart of one row per row, what landed is what the marts are made from.
_IN_MARTS = """
    WITH arrived AS (
      SELECT 'events' AS table_name, {events} AS in_marts UNION ALL
      SELECT 'items', count(*) FROM landing_items UNION ALL
      SELECT 'reviews', count(*) FROM landing_reviews UNION ALL
      SELECT 'messages', count(*) FROM landing_messages
    ),
    accounts AS (SELECT * FROM accounting JOIN arrived USING (table_name))"""

_MARTS = [
    *(
        _key("marts", table, columns)
        for table, columns in GRAIN.items()
        if table not in ("recommendations", "next_quarter", "run_manifest", *PREDICTIONS)
        and not table.startswith("campaign_")
    ),
    _blocking(
        "marts.fct_events.every_landed_event",
        "fct_events",
        "each day has exactly the events that landed for it",
        Rows(
            """
            WITH landed AS (
              SELECT event_ts::DATE AS event_date, count(*) AS landed
              FROM landing_events_recent WHERE event_ts < getvariable('night_end') GROUP BY ALL
            ),
            built AS (SELECT event_date, count(*) AS built FROM {batch} GROUP BY ALL)
            SELECT event_date, coalesce(landed, 0) AS landed, coalesce(built, 0) AS built
            FROM landed FULL JOIN built USING (event_date) WHERE landed IS DISTINCT FROM built
            """,
            unit="day",
        ),
    ),
    _blocking(
        "marts.fct_events.every_row_accounted",
        "fct_events",
        "rows read = rows in the marts + duplicates + quarantined + excluded + later",
        Rows(
            _IN_MARTS.replace(
                "{events}",
                "(SELECT count(*) FROM {batch})"
                " + (SELECT count(*) FROM fct_events WHERE event_date < getvariable('since'))",
            )
            + """
            SELECT table_name, mapped AS rows_read, in_marts, landed, deduplicated, quarantined,
                   excluded, later
            FROM accounts
            WHERE mapped <> in_marts + deduplicated + quarantined + excluded + later
            """,
            _IN_MARTS.replace("{events}", "(SELECT count(*) FROM fct_events)")
            + """
            SELECT coalesce(string_agg(
              format('{}: {:,} read = {:,} in the marts + {:,} duplicates + {:,} quarantined '
                     '+ {:,} excluded + {:,} later', table_name, mapped::BIGINT, in_marts,
                     deduplicated::BIGINT, quarantined::BIGINT, excluded::BIGINT, later::BIGINT),
              '; ' ORDER BY table_name), 'not evaluated: no counts were handed in')
            FROM accounts
            """,
            unit="table",
        ),
    ),
    _blocking(
        "marts.fct_events.dwell_not_negative",
        "fct_events",
        "dwell_ms is never below zero",
        Between("dwell_ms", low=0),
    ),
    _blocking(
        "marts.fct_events.users_known",
        "fct_events",
        "every user of an event is in dim_users",
        Rows(
            "SELECT DISTINCT user_id FROM {batch} ANTI JOIN dim_users USING (user_id) "
            "WHERE user_id IS NOT NULL",
            unit="user",
        ),
    ),
    _blocking(
        "marts.fct_events.night_has_events",
        "fct_events",
        "the night has events, if every one of the 28 days before had some",
        # a shop that has closed days may be closed; one that never closes has lost a delivery
        Rows(
            _OPEN + " SELECT * FROM history WHERE tonight = 0 AND days >= 7 AND open_days = days",
            _OPEN + " SELECT CASE WHEN tonight > 0 THEN format('{:,} events tonight', tonight) "
            "ELSE format('no event tonight; {:d} of the {:d} days before had some', "
            "open_days, days) END FROM history",
            unit="",
        ),
    ),
    _blocking(
        "marts.fct_events.not_an_earlier_day_again",
        "fct_events",
        "the night's events are not those of one of the 7 days before with a new date",
        Rows(
            """
            WITH recent AS (
              SELECT DISTINCT event_date, hash(user_id, event_type, item_id, event_ts::TIME) AS what
              FROM {batch} WHERE event_type <> 'exposure'
                AND event_date BETWEEN getvariable('night') - 7 AND getvariable('night')
            ),
            tonight AS (SELECT what FROM recent WHERE event_date = getvariable('night'))
            SELECT event_date AS earlier_day, count(*) AS repeated_events,
                   (SELECT count(*) FROM tonight) AS events_tonight
            FROM recent SEMI JOIN tonight USING (what)
            WHERE event_date < getvariable('night') AND events_tonight >= 20
            GROUP BY event_date HAVING repeated_events > 0.5 * events_tonight
            """,
            unit="day",
        ),
    ),
    _warning(
        "marts.fct_events.reaches_the_night",
        "fct_events",
        "the newest event is of the night's own day",
        Rows(
            "SELECT max(event_ts) AS newest_event FROM {batch} "
            "HAVING max(event_ts) < getvariable('night')",
            unit="",
        ),
    ),
    _blocking(
        "marts.fct_sessions.in_order",
        "fct_sessions",
        "no session ends before it starts or has a negative duration or dwell",
        Rows(
            "SELECT session_key, started_at, ended_at, duration_ms, dwell_ms FROM {batch} "
            "WHERE ended_at < started_at OR duration_ms < 0 OR dwell_ms < 0",
            unit="session",
        ),
    ),
    _blocking(
        "marts.fct_orders.total_equals_lines",
        "fct_orders",
        "an order's revenue, refunds and units are the sums of its lines",
        Rows(
            """
            WITH lines AS (
              SELECT order_id,
                     coalesce(sum(revenue) FILTER (line_type = 'purchase'), 0) AS gross_of_lines,
                     coalesce(-sum(revenue) FILTER (line_type = 'refund'), 0) AS refunds_of_lines,
                     coalesce(sum(quantity) FILTER (line_type = 'purchase'), 0) AS units_of_lines
              FROM fct_order_lines WHERE order_id IS NOT NULL GROUP BY order_id
              HAVING count(*) FILTER (line_type = 'purchase') > 0
            )
            SELECT order_id, gross_revenue, gross_of_lines, refunded_revenue, refunds_of_lines,
                   units, units_of_lines
            FROM {batch} FULL JOIN lines USING (order_id)
            WHERE gross_revenue IS DISTINCT FROM gross_of_lines
               OR refunded_revenue IS DISTINCT FROM refunds_of_lines
               OR units IS DISTINCT FROM units_of_lines
               OR net_revenue IS DISTINCT FROM gross_revenue - refunded_revenue
            """,
            "SELECT format('{:,} orders, {:,.2f} in all', count(*), "
            "coalesce(sum(gross_revenue), 0)::DOUBLE) FROM fct_orders",
            unit="order",
        ),
    ),
    _blocking(
        "marts.fct_orders.numbers_consecutive",
        "fct_orders",
        "a user's valid orders are numbered 1, 2, 3, ...",
        Rows(
            "SELECT user_id, count(*) AS orders, min(order_number) AS lowest, "
            "max(order_number) AS highest, count(DISTINCT order_number) AS numbers FROM {batch} "
            "WHERE user_id IS NOT NULL AND order_number IS NOT NULL GROUP BY user_id "
            "HAVING lowest <> 1 OR highest <> orders OR numbers <> orders",
            unit="user",
        ),
    ),
    _blocking(
        "marts.fct_orders.revenue_week",
        "fct_orders",
        "the last 7 days with events earn at least (1 - max_revenue_drop) of the 7 before",
        Rows(
            _WEEKS + " SELECT last_week, week_before FROM weeks WHERE enough "
            "AND last_week < (1 - getvariable('max_revenue_drop')) * week_before",
            _WEEKS + " SELECT CASE WHEN enough THEN format('{:,.2f} after {:,.2f}', "
            "last_week::DOUBLE, week_before::DOUBLE) "
            "ELSE 'not evaluated: fewer than 14 days with events' END FROM weeks",
            unit="",
        ),
    ),
    _blocking(
        "marts.dim_users.none_lost",
        "dim_users",
        "at least (1 - max_user_drop) of the users of the published night are known",
        Rows(
            """
            SELECT published.night AS published_night, published.users AS published_users,
                   (SELECT count(*) FROM {batch}) AS users_tonight
            FROM published WHERE published.night <= getvariable('night')
              AND users_tonight < (1 - getvariable('max_user_drop')) * published_users
            """,
            # what is seen must not depend on what is published: the same night again is the same
            "SELECT format('{:,} users', count(*)) FROM dim_users",
            unit="",
        ),
    ),
    _blocking(
        "marts.retention_cohorts.rates",
        "retention_cohorts",
        "returned is between 0 and eligible, and rate is returned / eligible",
        Rows(
            "SELECT cohort_grain, cohort, kind, period, eligible, returned, rate FROM {batch} "
            "WHERE returned NOT BETWEEN 0 AND eligible "
            "OR abs(rate - returned / nullif(eligible, 0)) > 1e-9"
        ),
    ),
    _blocking(
        "marts.repurchase_rates.rates",
        "repurchase_rates",
        "repurchased is between 0 and eligible, and rate is repurchased / eligible",
        Rows(
            "SELECT cohort, window_days, eligible, repurchased, rate FROM {batch} "
            "WHERE repurchased NOT BETWEEN 0 AND eligible "
            "OR abs(rate - repurchased / nullif(eligible, 0)) > 1e-9"
        ),
    ),
    _blocking(
        "marts.funnel_daily.shares",
        "funnel_daily",
        "no step counts more sessions than there were",
        Rows(
            "SELECT * FROM {batch} WHERE greatest(sessions_view, sessions_cart, "
            "sessions_checkout, sessions_purchase) > sessions",
            unit="day",
        ),
    ),
    _blocking(
        "marts.user_rfm.scores",
        "user_rfm",
        "r, f and m scores are 1 to 5",
        Rows(
            "SELECT user_id, r_score, f_score, m_score FROM {batch} "
            "WHERE NOT coalesce(r_score BETWEEN 1 AND 5 AND f_score BETWEEN 1 AND 5 "
            "AND m_score BETWEEN 1 AND 5, false)",
            unit="user",
        ),
    ),
]


def _feature_view(view: str, entity: str) -> list[CheckSpec]:
    """What holds for every view of numeric features."""
    keys = (entity, "event_timestamp")
    return [
        _key("features", view, keys),
        _blocking(
            f"features.{view}.not_from_the_future",
            view,
            "no feature is later than the night's end",
            Rows(
                f"SELECT {', '.join(keys)} FROM {{batch}} "
                "WHERE event_timestamp > getvariable('night_end')"
            ),
        ),
        _blocking(
            f"features.{view}.finite",
            view,
            "no value is infinite or not a number",
            EachColumn(keys, "NOT isfinite({column})", type="DOUBLE"),
        ),
        _blocking(
            f"features.{view}.shares",
            view,
            "every share is between 0 and 1",
            EachColumn(keys, "{column} NOT BETWEEN 0 AND 1", like="%share%"),
        ),
    ]


_EMBEDDING = "item_text_embedding_minilm_v1"
_FEATURES = [
    *_feature_view("user_behaviour_v1", "user_id"),
    *_feature_view("user_purchases_v1", "user_id"),
    *_feature_view("item_stats_v1", "item_id"),
    _blocking(
        "features.user_behaviour_v1.every_user",
        "user_behaviour_v1",
        "every user has features as of the night's end",
        Rows(
            "SELECT user_id FROM dim_users ANTI JOIN (SELECT user_id FROM {batch} "
            "WHERE event_timestamp = getvariable('night_end')) USING (user_id)",
            unit="user",
        ),
    ),
    _blocking(
        "features.item_stats_v1.tonight",
        "item_stats_v1",
        "there are item features as of the night's end",
        Rows(
            "SELECT max(event_timestamp) AS newest FROM {batch} "
            "HAVING newest IS DISTINCT FROM getvariable('night_end')",
            unit="",
        ),
    ),
    _key("features", _EMBEDDING, ("item_id", "event_timestamp")),
    _blocking(
        f"features.{_EMBEDDING}.not_from_the_future",
        _EMBEDDING,
        "no embedding is of a text later than the night's end",
        Rows(
            "SELECT item_id, event_timestamp FROM {batch} "
            "WHERE event_timestamp > getvariable('night_end')"
        ),
    ),
    _blocking(
        f"features.{_EMBEDDING}.dimension",
        _EMBEDDING,
        f"every embedding has {EMBEDDING_DIMENSION} numbers",
        Rows(
            "SELECT item_id, event_timestamp, len(embedding) AS numbers FROM {batch} "
            f"WHERE len(embedding) IS DISTINCT FROM {EMBEDDING_DIMENSION}"
        ),
    ),
    _blocking(
        f"features.{_EMBEDDING}.unit_length",
        _EMBEDDING,
        "every embedding has length 1: zeros or broken numbers have not",
        Rows(
            "SELECT item_id, event_timestamp, round(list_inner_product(embedding, embedding), 4) "
            "AS squared_length FROM {batch} WHERE coalesce("
            "abs(list_inner_product(embedding, embedding) - 1) > 0.02, true)"
        ),
    ),
    _blocking(
        f"features.{_EMBEDDING}.every_item",
        _EMBEDDING,
        "every item of the catalogue that has a text has an embedding",
        Rows(
            "SELECT item_id, title FROM dim_items ANTI JOIN {batch} USING (item_id) "
            "WHERE is_catalogued AND trim(title) <> ''",
            unit="item",
        ),
    ),
]

_RECOMMENDATIONS = [
    _key("recommendations", "recommendations", ("user_id", "rank")),
    _blocking(
        "recommendations.users.everyone",
        "recommendations",
        f"every user gets {TOP_K} items, or all in the catalogue that are not sold out; in a shop "
        f"of fewer than {2 * TOP_K} whose rules may block some, all that anybody gets",
        Rows(
            f"""
            WITH stock AS (
              SELECT count(*) AS there,
                     CASE WHEN getvariable('has_rules') AND there < {2 * TOP_K}
                       THEN greatest(1, (SELECT count(DISTINCT item_id) FROM {{batch}}))
                       ELSE there END AS listed
              FROM dim_items WHERE is_catalogued AND NOT is_sold_out
            )
            SELECT user_id, count(item_id) AS items,
                   least({TOP_K}, (SELECT listed FROM stock)) AS expected
            FROM dim_users LEFT JOIN {{batch}} USING (user_id) GROUP BY user_id
            HAVING items <> expected
            """,
            "SELECT format('{:,} rows for {:,} users', count(*), count(DISTINCT user_id)) "
            "FROM recommendations",
            unit="user",
        ),
    ),
    _blocking(
        "recommendations.users.known",
        "recommendations",
        "every user is in dim_users",
        Rows(
            "SELECT DISTINCT user_id FROM {batch} ANTI JOIN dim_users USING (user_id)",
            unit="user",
        ),
    ),
    _blocking(
        "recommendations.items.known",
        "recommendations",
        "every item is in the catalogue",
        Rows(
            "SELECT item_id, count(*) AS recommended FROM {batch} ANTI JOIN "
            "(SELECT item_id FROM dim_items WHERE is_catalogued) USING (item_id) "
            "GROUP BY item_id",
            unit="item",
        ),
    ),
    _blocking(
        "recommendations.items.unique",
        "recommendations",
        "no user gets an item twice",
        Rows(
            "SELECT user_id, item_id, count(*) AS copies FROM {batch} GROUP BY user_id, item_id "
            "HAVING copies > 1"
        ),
    ),
    _blocking(
        "recommendations.ranks.consecutive",
        "recommendations",
        "a user's ranks are 1, 2, 3, ...",
        Rows(
            "SELECT user_id, count(*) AS items, min(rank) AS lowest, max(rank) AS highest "
            "FROM {batch} GROUP BY user_id HAVING lowest <> 1 OR highest <> items",
            unit="user",
        ),
    ),
    _blocking(
        "recommendations.items.in_stock",
        "recommendations",
        "nothing that is sold out is recommended",
        Rows(
            "SELECT item_id, count(*) AS recommended FROM {batch} SEMI JOIN "
            "(SELECT item_id FROM dim_items WHERE is_sold_out) USING (item_id) GROUP BY item_id",
            unit="item",
        ),
    ),
    _blocking(
        "recommendations.scores.probabilities",
        "recommendations",
        "scores and propensities are probabilities, and no propensity is 0",
        Rows(
            "SELECT user_id, rank, score, propensity FROM {batch} WHERE NOT coalesce("
            "score BETWEEN 0 AND 1 AND propensity > 0 AND propensity <= 1, false)"
        ),
    ),
    _blocking(
        "recommendations.model.one",
        "recommendations",
        "one model version, or popularity for those without a history, scored everyone tonight",
        Rows(
            "SELECT night, model_version, count(*) AS rows, "
            "count(*) FILTER (model_version <> 'popularity') OVER () AS versions "
            "FROM {batch} GROUP BY night, model_version "
            "QUALIFY versions > 1 OR model_version IS NULL "
            "OR night IS DISTINCT FROM getvariable('night')",
            unit="version",
        ),
    ),
    _key("recommendations", "next_quarter", ("user_id", "part", "rank")),
    _blocking(
        "recommendations.next_quarter.items",
        "next_quarter",
        "every item of the next quarter is in the catalogue and not sold out, and in one part only",
        Rows(
            """
            SELECT user_id, item_id, count(*) AS listed FROM {batch}
            GROUP BY user_id, item_id
            HAVING listed > 1 OR item_id NOT IN
              (SELECT item_id FROM dim_items WHERE is_catalogued AND NOT is_sold_out)
            """,
            unit="item",
        ),
    ),
    _warning(
        "recommendations.items.coverage",
        "recommendations",
        "at least 5 % of the catalogue is recommended to someone",
        Rows(
            """
            SELECT * FROM (
              SELECT count(DISTINCT item_id) AS recommended,
                     (SELECT count(*) FROM dim_items WHERE is_catalogued) AS catalogue FROM {batch}
            ) WHERE recommended < 0.05 * catalogue
            """,
            "SELECT format('{:,} items are recommended', count(DISTINCT item_id)) "
            "FROM recommendations",
            unit="",
        ),
    ),
]

_CAMPAIGNS = [
    _key("campaigns", "campaign_audience", GRAIN["campaign_audience"]),
    _blocking(
        "campaigns.campaign_audience.known",
        "campaign_audience",
        "whoever is chosen tonight is in dim_users",
        Rows(
            "SELECT campaign, user_id FROM {batch} ANTI JOIN dim_users USING (user_id) "
            "WHERE entered_night = getvariable('night')",
            "SELECT format('{:,} users chosen tonight', count(*)) FROM campaign_audience "
            "WHERE entered_night = getvariable('night')",
            unit="user",
        ),
    ),
    _blocking(
        "campaigns.campaign_audience.cap",
        "campaign_audience",
        "nobody is chosen again, by any campaign, before the cap of both campaigns is over",
        Rows(
            """
            SELECT user_id, campaign, entered_night, apart, cap FROM (
              SELECT *, entered_night - lag(entered_night) OVER nights AS apart,
                     greatest(cap_days, lag(cap_days) OVER nights) AS cap
              FROM {batch} WINDOW nights AS (PARTITION BY user_id ORDER BY entered_night)
            ) WHERE apart < cap
            """,
            unit="user",
        ),
    ),
    _warning(
        "campaigns.campaign_audience.holdout",
        "campaign_audience",
        "as many users are held out as each campaign asks for, within four standard deviations",
        Rows(
            """
            SELECT campaign, count(*) AS users, count(*) FILTER (is_holdout) AS held_out,
                   round(sum(holdout_share), 1) AS asked
            FROM {batch} GROUP BY campaign
            HAVING abs(held_out - sum(holdout_share))
              > 4 * sqrt(sum(holdout_share * (1 - holdout_share))) + 1e-6
            """,
            "SELECT format('{:,} of {:,} users are held out', count(*) FILTER (is_holdout), "
            "count(*)) FROM campaign_audience",
            unit="campaign",
        ),
    ),
    _key("campaigns", "campaign_results", GRAIN["campaign_results"]),
    _blocking(
        "campaigns.campaign_results.everybody",
        "campaign_results",
        "everybody who was chosen is treated, held out or waiting, once",
        Rows(
            """
            SELECT campaign, outcome_days, counted, chosen FROM (
              SELECT campaign, outcome_days, n_waiting + n_treated + n_holdout AS counted
              FROM {batch}
            ) FULL JOIN (
              SELECT campaign, outcome_days, count(*) AS chosen FROM campaign_audience GROUP BY ALL
            ) USING (campaign, outcome_days)
            WHERE coalesce(counted, -1) <> coalesce(chosen, 0)
            """,
            unit="campaign",
        ),
    ),
    _blocking(
        "campaigns.campaign_results.rates",
        "campaign_results",
        "rates are between 0 and 1, and differences lie within their intervals",
        Rows(
            "SELECT * FROM {batch} WHERE treated_rate NOT BETWEEN 0 AND 1 "
            "OR holdout_rate NOT BETWEEN 0 AND 1 "
            "OR rate_difference NOT BETWEEN rate_low AND rate_high "
            "OR revenue_difference NOT BETWEEN revenue_low AND revenue_high",
            unit="campaign",
        ),
    ),
]

_DRIFTED = 0.25
"""Population stability index above which a column is of another population (`ml.value.drift`)."""
_PREDICTIONS = [
    *(_key("predictions", name, GRAIN[name]) for name in PREDICTIONS),
    _blocking(
        "predictions.users.known",
        "user_predictions",
        "every user is in dim_users",
        Rows(
            "SELECT DISTINCT user_id FROM {batch} ANTI JOIN dim_users USING (user_id)",
            unit="user",
        ),
    ),
    _blocking(
        "predictions.users.everyone",
        "user_predictions",
        "what a trained model tells of purchase and spend it tells of every user",
        Rows(
            """
            SELECT target, horizon_days, count(*) AS told, (SELECT count(*) FROM dim_users) AS known
            FROM {batch}
            WHERE target IN ('purchase', 'spend') AND model_version NOT LIKE 'bg_nbd%'
            GROUP BY target, horizon_days HAVING told <> known
            """,
            "SELECT format('{:,} rows for {:,} users', count(*), count(DISTINCT user_id)) "
            "FROM user_predictions",
            unit="target",
        ),
    ),
    _blocking(
        "predictions.values.sound",
        "user_predictions",
        "probabilities lie between 0 and 1, amounts are finite and not below 0, and every value "
        "lies in its interval",
        Rows(
            "SELECT user_id, target, horizon_days, value, low, high FROM {batch} "
            "WHERE NOT coalesce(isfinite(value) AND low >= 0 AND low <= value AND value <= high "
            "AND (target = 'spend' OR high <= 1), false)"
        ),
    ),
    _blocking(
        "predictions.model.one",
        "user_predictions",
        "one model tells a target of everybody tonight",
        Rows(
            "SELECT target, horizon_days, count(DISTINCT model_version) AS versions FROM {batch} "
            "GROUP BY target, horizon_days HAVING versions <> 1 "
            "OR min(night) <> getvariable('night') OR max(night) <> getvariable('night')",
            unit="target",
        ),
    ),
    _warning(
        "predictions.features.drift",
        "prediction_drift",
        f"no feature that carries a tenth of a model has drifted (index above {_DRIFTED})",
        Rows(
            "SELECT target, horizon_days, feature, round(psi, 3) AS psi, round(share, 3) AS share "
            "FROM {batch} JOIN prediction_drivers USING (target, horizon_days, feature) "
            f"WHERE psi > {_DRIFTED} AND share > 0.1",
            unit="feature",
        ),
    ),
    _warning(
        "predictions.values.drift",
        "prediction_drift",
        f"no model tells tonight's users something else altogether (index above {_DRIFTED})",
        Rows(
            "SELECT target, horizon_days, round(psi, 3) AS psi FROM {batch} "
            f"WHERE feature = 'prediction' AND psi > {_DRIFTED}",
            unit="model",
        ),
    ),
    _warning(
        "predictions.groups.calibration",
        "prediction_fairness",
        "between countries, and between new and old users, no probability is off by a tenth more "
        "for one group than for another, beyond chance",
        Rows(
            "SELECT target, horizon_days, kind, round(value, 3) AS gap FROM {batch} "
            "WHERE grp = 'gap' AND metric = 'calibration' AND low > 0.1",
            unit="model",
        ),
    ),
]

CATALOGUE: dict[str, list[CheckSpec]] = {
    "landing": _LANDING,
    "marts": _MARTS,
    "features": _FEATURES,
    "recommendations": _RECOMMENDATIONS,
    "predictions": _PREDICTIONS,
    "campaigns": _CAMPAIGNS,
}
