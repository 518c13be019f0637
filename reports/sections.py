"""What the report says, question by question: each figure's definition, n, reading and, when there
is nothing to see, why.

Every number in a sentence is computed from the very table that is drawn.
"""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING, Any

from reports import expectation, plots, queries, segments, survival
from reports.campaigns import campaigns
from reports.morning import changed, data_reasons, yesterday
from reports.panels import (
    Card,
    Panel,
    Section,
    Source,
    Words,
    count,
    few,
    first,
    percent,
    seconds,
    total,
    trust,
)
from reports.plots import SMALL
from reports.predictions import predictions
from reports.quality import quality
from reports.worth import worth

if TYPE_CHECKING:
    import pyarrow as pa


def sections(source: Source) -> list[Section]:
    """The whole report in reading order."""
    measured = expectation.measures(source.connection, source.night)
    reasons = data_reasons(source)
    return [
        yesterday(source, measured, reasons),
        changed(source, measured, reasons),
        overview(source),
        retention(source),
        repurchase(source),
        visits(source),
        worth(source),
        customers(source),
        *campaigns(source),
        items(source),
        recommendations(source),
        *predictions(source),
        quality(source),
    ]


def overview(source: Source) -> Section:
    """Headline numbers and sales over time."""
    data = queries.headline(source.connection)
    sums, currency = data.to_pylist()[0], source.shop.currency
    share = sums["customers"] / sums["users"] if sums["users"] else None
    guests = sums["guest_orders"] / sums["orders"] if sums["orders"] else None
    each = float(sums["net_revenue"]) / sums["orders"] if sums["orders"] else None
    gross = sums["gross_revenue"]
    refunds = float(sums["refunded_revenue"] / gross) if gross else None
    cards = [
        Card("Users", count(sums["users"]), "shoppers known by an id, with at least one event"),
        Card("Customers", count(sums["customers"]), f"users with a valid order: {percent(share)}"),
        Card(
            "Orders",
            count(sums["orders"]),
            f"valid (net value above zero); {percent(guests)} by guests without an id",
        ),
        Card(
            "Net revenue",
            count(sums["net_revenue"]),
            f"purchases less refunds ({percent(refunds)} of the gross); "
            f"{count(each)} {currency} an order",
            currency,
        ),
        Card(
            "Repeat rate",
            percent(sums["repeat_rate"]),
            f"customers with a second valid order, ever: {count(sums['repeat_customers'])} "
            f"of {count(sums['customers'])}{trust(sums['customers'])}",
        ),
    ]
    return Section(
        "overview",
        "At a glance",
        f"From {sums['first_day']} to {sums['last_day']}: {count(sums['events'])} events.",
        [
            _sales(source),
            _recent(source),
            _deliveries(source),
            _headline_table(data),
            _definitions(source),
        ],
        cards,
    )


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return percent(value)
    return str(value) if value is None or isinstance(value, date) else count(value)


def _headline_table(data: pa.Table) -> Panel:
    return Panel(
        "headline",
        "The headline numbers as a table",
        "All since the first day. Guests count in orders and revenue, never among users.",
        data,
        headers=("measure", "value"),
        rows=[
            [name.replace("_", " "), _plain(value)] for name, value in data.to_pylist()[0].items()
        ],
        folded=True,
    )


def _definitions(source: Source) -> Panel:
    data = queries.definitions(source.connection)
    return Panel(
        "definitions",
        "What the numbers mean, and whom to ask",
        "The same words stand in docs/analyst.md and in marts.metric_definitions.",
        data,
        headers=("metric", "definition", "owner"),
        rows=[
            [row["title"], row["definition"], row["owner"].removeprefix("team:")]
            for row in data.to_pylist()
        ],
        folded=True,
    )


def _recent(source: Source) -> Panel:
    data = queries.recent(source.connection, source.night)
    rows = [
        [
            row["measure"],
            count(row["latest"]),
            count(row["before"]),
            "-" if row["change"] is None else f"{row['change'] * 100:+.1f}%",
        ]
        for row in data.to_pylist()
    ]
    return Panel(
        "recent",
        "The latest four weeks against the four before",
        f"{queries.RECENT_DAYS} days up to and including the night beside the "
        f"{queries.RECENT_DAYS} days before them. An active user has an event other than a refund "
        f"or an exposure. Revenue in {source.shop.currency}.",
        data,
        headers=("", "latest", "before", "change"),
        rows=rows,
    )


def _deliveries(source: Source) -> Panel:
    data = queries.deliveries(source.connection)
    return Panel(
        "deliveries",
        "What the shop delivers",
        "Events by kind. What is not in this list the shop does not deliver, and the figures that "
        "need it say so. The rest of the events are by guests without an id.",
        data,
        headers=("event", "count", "by users", "first", "last"),
        rows=[
            [
                row["event_type"].replace("_", " "),
                count(row["events"]),
                percent(row["by_known_users"] / row["events"], 0),
                str(row["first_day"]),
                str(row["last_day"]),
            ]
            for row in data.to_pylist()
        ],
        few=few(data, "events"),
        empty="" if data.num_rows else "Nothing has been delivered yet.",
    )


def _sales(source: Source) -> Panel:
    return source.plot(
        plots.sales,
        source.night,
        key="sales",
        title="Sales by week",
        definition=f"Net revenue (purchases less refunds, {source.shop.currency}, on the day each "
        "happened) and valid orders by week from Monday. Grey: a week that is not over.",
        empty="Nothing has been sold yet.",
        n=lambda data: f"{count(total(data, 'orders'))} orders in {data.num_rows} weeks",
        tall=True,
    )


def retention(source: Source) -> Section:
    """Do shoppers come back at all?"""
    empty = "No cohort is old enough yet: the first period after its first event is not over."

    def cohorts(data: pa.Table) -> str:
        sizes = {row["cohort"]: row["size"] for row in data.to_pylist()}
        return f"{count(sum(sizes.values()))} users in {len(sizes)} cohorts"

    def first_period(unit: str) -> Words:
        def words(data: pa.Table) -> str:
            rows = [row for row in data.to_pylist() if row["period"] == 1]
            n, back = sum(r["eligible"] for r in rows), sum(r["returned"] for r in rows)
            if not n:
                return ""
            return f"{percent(back / n)} of {count(n)} users came back in {unit} 1{trust(n)}."

        return words

    def curve(unit: str, at: int) -> Words:
        def words(data: pa.Table) -> str:
            exact = first(data, kind="n_day", period=at)
            later = first(data, kind="unbounded", period=at)
            if not exact or not later:
                return ""
            return (
                f"{percent(exact['rate'])} of {count(exact['eligible'])} came back "
                f"{unit} {at}; {percent(later['rate'])} came {unit} {at} or later."
            )

        return words

    panels = [
        source.plot(
            plots.retention_heatmap,
            grain,
            key=f"retention_{grain}",
            title=f"Who came back, by {grain} of the first event",
            definition=f"{source.definition('n_day_retention')} In percent, and small below it "
            "the 95% Wilson interval. In brackets the users whose first event fell into the "
            f"{grain}. At most the latest {queries.COHORTS[grain]} cohorts. Grey numbers rest on "
            f"fewer than {SMALL} users.",
            empty=empty,
            n=cohorts,
            reading=first_period(grain),
            wide=True,
        )
        for grain in ("month", "week")
    ]
    for grain, unit, at in (("day", "on day", 7), ("month", "in month", 3)):
        panels.append(
            source.plot(
                plots.retention_curve,
                grain,
                key=f"curve_{grain}",
                title=f"Coming back {grain} by {grain}",
                definition=f"Above, N-{grain}: {source.definition('n_day_retention')} "
                f"Below, unbounded: {source.definition('unbounded_retention')} "
                "All cohorts together, sums over sums; the right end rests on the oldest only. "
                f"Bands are 95% Wilson intervals; grey where fewer than {SMALL} are eligible.",
                empty=empty,
                n=lambda data: (
                    f"{count(max(data['eligible'].to_pylist()))} users at the start, "
                    f"{count(min(data['eligible'].to_pylist()))} at the end"
                ),
                reading=curve(unit, at),
            )
        )
    return Section(
        "retention",
        "Do shoppers come back?",
        "A cohort is everyone whose first event fell into the same week or month. "
        "Shoppers without an id (guests) cannot be followed and are not in it.",
        panels,
    )


def repurchase(source: Source) -> Section:
    """Do customers buy again?"""
    empty = "No customer's first order is old enough yet for any window."

    def windows(data: pa.Table) -> str:
        return " ".join(
            f"{percent(row['rate'])} order again within {row['window_days']} days"
            f"{trust(row['eligible'])}."
            for row in data.to_pylist()
        )

    horizon = queries.churn_horizon(source.connection).to_pylist()
    churn = (
        f" Churn: {source.definition('churn')} Here H is {horizon[0]['horizon_days']:.0f}, the "
        f"{percent(horizon[0]['gap_quantile'], 0)} quantile of these gaps."
        if horizon and horizon[0]["horizon_days"] is not None
        else ""
    )
    return Section(
        "repurchase",
        "Do customers buy again?",
        "Only valid orders count: cancellations and refunds are netted out first.",
        [
            _second_order(source),
            source.plot(
                plots.order_gaps,
                key="order_gaps",
                title="Days between two orders",
                definition="Share of gaps between two valid orders of one customer that are at "
                "most so many days long. Counts only gaps that ended with an order." + churn,
                empty="Nobody has ordered twice yet.",
                n=lambda data: f"{count(total(data, 'gaps'))} gaps",
            ),
            source.plot(
                plots.repurchase_windows,
                key="repurchase_windows",
                title="Repurchase rate by window",
                definition=f"{source.definition('repurchase_rate')} Bars are 95% Wilson intervals.",
                empty=empty,
                n=lambda data: (
                    f"{count(max(data['eligible'].to_pylist()))} customers in the shortest window"
                ),
                reading=windows,
            ),
            source.plot(
                plots.order_counts,
                key="order_counts",
                title="How often customers have ordered",
                definition="Customers by the number of their valid orders since the first day. "
                f"Those who came lately have had less time for a second. Grey: fewer than {SMALL}.",
                empty="Nobody has ordered yet.",
                n=lambda data: f"{count(total(data, 'customers'))} customers",
            ),
            source.plot(
                plots.repurchase_cohorts,
                key="repurchase_cohorts",
                title="Repurchase rate by month of the first order",
                definition="The same rate, one cohort a month. A window appears only for customers "
                f"whose W days have elapsed; grey points rest on fewer than {SMALL}.",
                empty=empty,
                n=_first_buyers,
            ),
            _first_items(source),
        ],
    )


def _second_order(source: Source) -> Panel:
    def words(data: pa.Table) -> str:
        reached = [row for row in data.to_pylist() if row["days"] <= 90][-1]
        return (
            f"{survival.median(data)} By day {reached['days']} it is {percent(reached['rate'])} "
            f"({percent(reached['low'])} to {percent(reached['high'])})."
        )

    return source.plot(
        plots.second_order,
        key="repurchase_survival",
        title="How long until the second order",
        definition=f"{source.definition('repurchase_curve')} Median: "
        f"{source.definition('median_days_to_second')} The band is the 95% interval; grey where "
        f"fewer than {SMALL} are still waited for.",
        empty="Nobody with an id has ordered yet.",
        n=lambda data: (
            f"{count(max(data['eligible'].to_pylist()))} customers, "
            f"{count(total(data, 'ordered_again'))} of them with a second order"
        ),
        reading=words,
    )


def _first_items(source: Source) -> Panel:
    return source.plot(
        plots.repurchase_items,
        key="repurchase_items",
        title="Items that good customers begin with",
        definition=f"{source.definition('item_lift')} At least {SMALL} first buyers; ordered by "
        "the low end of the 95% interval, so that a small item does not win by chance. Blue: the "
        "interval lies above 1, as it does for two or three of a hundred items by chance. What "
        "good customers begin with need not be what brings them back.",
        empty=f"No item has {SMALL} first buyers whose 90 days are over.",
        n=lambda data: f"{count(data['items_judged'][0].as_py())} items with {SMALL} and more",
        reading=lambda data: (
            f"The intervals of {count(data['items_above'][0].as_py())} of "
            f"{count(data['items_judged'][0].as_py())} items lie above the shop's rate."
        ),
    )


def _first_buyers(data: pa.Table) -> str:
    rows = data.to_pylist()
    shortest = min(row["window_days"] for row in rows)
    cohorts = [row["eligible"] for row in rows if row["window_days"] == shortest]
    return f"{count(sum(cohorts))} customers in {len(cohorts)} cohorts"


def visits(source: Source) -> Section:
    """What happens during a visit: time on the page, and the way to the order."""
    night, kinds = source.night, source.event_types()
    title = "What happens during a visit?"
    if not kinds & {"view", "cart_add", "checkout"}:
        return Section("visits", title, "", [_no_visits(kinds)])
    no_views = "" if "view" in kinds else "This shop delivers no page views. "
    quiet = f"{no_views}No visits in the {queries.RECENT_DAYS} days before this night."
    panels = [
        source.plot(
            plots.funnel_steps,
            night,
            key="funnel_steps",
            title="From visit to order, latest four weeks",
            definition=f"Sessions of the latest {queries.RECENT_DAYS} days in which the step "
            f"happened at least once. A step may be skipped, so the bars need not nest. Grey: "
            f"fewer than {SMALL}.",
            empty=quiet,
            n=lambda data: f"{count(data['sessions'].to_pylist()[0])} sessions",
            reading=lambda data: (
                f"{percent(data['share_of_sessions'].to_pylist()[-1])} of "
                "sessions end with an order."
            ),
        ),
        source.plot(
            plots.funnel_weeks,
            night,
            key="funnel_weeks",
            title="The funnel over time",
            definition="Share of a week's sessions with a cart, a checkout or an order; whole "
            f"weeks from Monday. Grey where a week has fewer than {SMALL} sessions.",
            empty="No whole week with visits yet.",
            n=lambda data: f"{count(total(data, 'sessions'))} sessions in {data.num_rows} weeks",
        ),
        source.plot(
            plots.dwell,
            night,
            key="dwell",
            title="Time on an item's page",
            definition=f"Dwell: {source.definition('dwell')} Median and winsorised mean (the "
            "lowest and highest 5% drawn in) by day, and coverage: the share of views with a "
            f"dwell. The latest 90 days. Grey: fewer than {SMALL} such.",
            empty=f"{no_views}No view has a dwell in the latest 90 days.",
            n=_viewed,
        ),
        source.plot(
            plots.visitor_weeks,
            night,
            key="visitor_weeks",
            title="Depth and dwell of a session, by who comes",
            definition=f"Depth: {source.definition('depth')} Dwell: minutes that are known of a "
            f"session. {source.definition('visitor_kind')} Means of whole weeks, the latest 26; "
            f"bands are 95% intervals. Grey: fewer than {SMALL} sessions.",
            empty=f"{no_views}No whole week with visits yet.",
            n=lambda data: f"{count(total(data, 'sessions'))} sessions",
            reading=_deepest,
        ),
        _dwell_kinds(source),
    ]
    return Section("visits", title, f"Session: {source.definition('session')}", panels)


def _deepest(data: pa.Table) -> str:
    rows = data.to_pylist()
    latest = [row for row in rows if row["week"] == rows[-1]["week"] and row["sessions"] >= SMALL]
    said = ", ".join(
        f"{row['visitor_kind']} {row['depth']:.1f}"
        + (f" in {row['seconds'] / 60:.1f} min" if row["seconds"] is not None else "")
        for row in latest
    )
    return f"Pages a session in the latest week: {said}." if said else ""


def _viewed(data: pa.Table) -> str:
    with_dwell, events = total(data, "with_dwell"), total(data, "events")
    return f"{count(with_dwell)} of {count(events)} views ({percent(with_dwell / events)})"


def _no_visits(kinds: set[str]) -> Panel:
    import pyarrow as pa

    delivered = " and ".join(sorted(f"{kind.replace('_', ' ')}s" for kind in kinds)) or "nothing"
    return Panel(
        "visits_none",
        "Funnel and time on the page",
        "With views, carts and checkouts in the shop's events, the way from visit to order and "
        "the time on a page appear here.",
        pa.table({}),
        empty="This shop delivers no page views, carts or checkouts, so there is no funnel and no "
        f"time on a page to show. It delivers {delivered}.",
        wide=True,
    )


def _dwell_kinds(source: Source) -> Panel:
    data = queries.dwell_kinds(source.connection, source.night)
    return Panel(
        "dwell_kinds",
        "Time by kind of page",
        f"The latest {queries.RECENT_DAYS} days: the share of events with a dwell, its median, and "
        "the range of its middle half. Purchases are left out: the lines of an order happen at "
        "one instant.",
        data,
        n=f"{count(total(data, 'with_dwell'))} events with a dwell" if data.num_rows else "",
        headers=("event", "count", "coverage", "median", "middle half"),
        rows=[
            [
                row["event_type"].replace("_", " "),
                count(row["events"]),
                percent(row["coverage"], 0),
                seconds(row["median_ms"]),
                f"{seconds(row['lower_quartile_ms'])} to {seconds(row['upper_quartile_ms'])}",
            ]
            for row in data.to_pylist()
        ],
        few=few(data, "with_dwell"),
        empty="" if data.num_rows else "No event of these weeks has a time on the page.",
        wide=True,
    )


def customers(source: Source) -> Section:
    """Who the customers are: recency, frequency, monetary value."""
    empty = "There are no customers with a valid order yet."

    def best(data: pa.Table) -> str:
        row = data.to_pylist()[0]
        return (
            f"“{str(row['segment']).replace('_', ' ')}” is {percent(row['customer_share'], 0)} of "
            f"customers and {percent(row['revenue_share'], 0)} of their net revenue."
        )

    def everyone(data: pa.Table) -> str:
        return f"{count(total(data, 'customers'))} customers"

    return Section(
        "customers",
        "Who are the customers?",
        "RFM scores each customer from 1 to 5 on recency, frequency and money spent: 5 is the "
        "best fifth.",
        [
            source.plot(
                plots.rfm_segments,
                key="rfm_segments",
                title="Segments: customers and their money",
                definition="Segments follow from the recency and frequency scores; shares of all "
                "customers and of their net revenue. In brackets the number of customers; grey "
                f"where it is below {SMALL}.",
                empty=empty,
                n=everyone,
                reading=best,
            ),
            source.plot(
                plots.rfm_grid,
                key="rfm_grid",
                title="Recency against frequency",
                definition="Customers by recency and frequency score; 5 is best. Upper left: "
                f"once loyal, long gone. Grey numbers: fewer than {SMALL}.",
                empty=empty,
                n=everyone,
            ),
            *segments.panels(source),
        ],
    )


def items(source: Source) -> Section:
    """What sells."""
    panel = source.plot(
        plots.top_items,
        source.night,
        key="top_items",
        title="Top ten items, latest four weeks",
        definition=f"By net revenue ({source.shop.currency}) of the latest {queries.RECENT_DAYS} "
        f"days; buyers are distinct users with an id. Grey: fewer than {SMALL} of them.",
        empty=f"Nothing was sold in the {queries.RECENT_DAYS} days before this night.",
        n=lambda data: f"{count(total(data, 'units'))} units in {data.num_rows} items",
    )
    seen = "view" in source.event_types()
    table = Panel(
        "top_items_table",
        "The same items in numbers",
        "Units are pieces bought, refunded pieces beside them."
        + ("" if seen else " No views: this shop delivers none."),
        panel.data,
        n=panel.n,
        headers=("item", "revenue", "buyers", "units", "refunded", *["views"][:seen]),
        rows=[
            [
                row["title"],
                count(row["net_revenue"]),
                count(row["buyers"]),
                count(row["units"]),
                count(row["refunded_units"]),
                *[count(row["views"])][:seen],
            ]
            for row in panel.data.to_pylist()
        ],
        few=few(panel.data, "buyers") if panel.data.num_rows else (),
    )
    return Section("items", "What sells?", "", [panel] if panel.empty else [panel, table])


def recommendations(source: Source) -> Section:
    """What is recommended, to whom, and is the model better than the plain baselines?"""
    connection = source.connection
    coverage = queries.recommendation_coverage(connection).to_pylist()[0]
    empty = "No recommendations were published this night."
    lead = empty
    if coverage["users_with_list"]:
        lead = (
            f"Lists of up to {coverage['longest_list']} items by {coverage['model_version']}. "
            f"The promotion gate: {queries.decision(connection) or 'no decision on record'}."
        )

    def evaluated(data: pa.Table) -> str:
        users = [n for n in data["n_users"].to_pylist() if n is not None]
        return f"{count(max(users))} users" if users else "users not recorded"

    metrics = source.plot(
        plots.model_metrics,
        key="model_metrics",
        title="The model against plain baselines",
        definition="On the held-out last days, all items ranked. NDCG@k and Recall@k: does what "
        "the user then did stand among the first k, and how high? Coverage: share of the items "
        "that appear in anyone's first k. Bars are 95% intervals over users. A challenger (blue) "
        "is promoted only if it is ahead of the champion (green) and the baselines (grey). Pale: "
        f"fewer than {SMALL} users.",
        empty="No model was evaluated this night.",
        n=evaluated,
        reading=_best_models,
        tall=True,
    )
    reasons = source.plot(
        plots.recommendation_reasons,
        key="recommendation_reasons",
        title="Why items were recommended",
        definition="The reason given with each entry, over everyone's first ten, by its first "
        f"words. “It” is the recommended item itself; dots stand for another one. Grey: fewer "
        f"than {SMALL} entries.",
        empty=empty,
        n=lambda data: f"{count(total(data, 'entries'))} entries",
    )
    return Section(
        "recommendations",
        "What is recommended?",
        lead,
        [
            metrics,
            reasons,
            _lists(source),
            _metrics_table(queries.model_metrics(connection)),
            _sample(source),
        ]
        if coverage["users_with_list"]
        else [metrics],
    )


def _best_models(data: pa.Table) -> str:
    """The models by NDCG@10, best first."""
    ranked = [row for row in data.to_pylist() if row["metric"] == "ndcg@10"]
    values = [f"{row['model'].replace('_', ' ')} {row['value']:.4f}" for row in ranked]
    return f"NDCG@10: {', '.join(values)}." if values else ""


def _lists(source: Source) -> Panel:
    data = queries.recommendation_coverage(source.connection)
    row = data.to_pylist()[0]
    return Panel(
        "recommendation_coverage",
        "Who gets a list, and of what",
        "Items in first tens: distinct items among everyone's first ten recommendations. Few of "
        "many means that everyone is shown the same.",
        data,
        n=f"{count(row['users_with_list'])} users",
        headers=("", "number", "of"),
        rows=[
            ["users with a list", count(row["users_with_list"]), count(row["users"])],
            ["items in first tens", count(row["items_in_top_10"]), count(row["items"])],
            ["entries of the longest list", count(row["longest_list"]), "-"],
        ],
    )


def _metrics_table(data: pa.Table) -> Panel:
    def interval(row: dict[str, Any]) -> str:
        low, high = row["low"], row["high"]
        return "-" if low is None or high is None else f"{low:.4f} to {high:.4f}"

    return Panel(
        "model_metrics_table",
        "The metrics as a table",
        "Value with its interval, where one was computed.",
        data,
        headers=("metric", "model", "value", "interval", "users"),
        rows=[
            [
                row["metric"],
                row["model"].replace("_", " "),
                f"{row['value']:.4f}",
                interval(row),
                count(row["n_users"]),
            ]
            for row in data.to_pylist()
        ],
        few=few(data, "n_users"),
        empty="" if data.num_rows else "No model was evaluated this night.",
        folded=True,
    )


def _sample(source: Source) -> Panel:
    data = queries.recommendation_sample(source.connection)
    lists: dict[str, dict[str, list[str]]] = {}
    for row in data.to_pylist():
        reason = f" ({row['reason']})" if row["reason"] else ""
        user = lists.setdefault(row["user_id"], {"touched": [], "recommended": []})
        user[row["list"]].append(f"{row['rank']}. {row['title']}{reason}")
    return Panel(
        "recommendation_sample",
        "Three customers, for the eye",
        "The three users who ordered last: the items they saw or bought last, latest first, and "
        "the first five of their list. An anecdote, not a measurement.",
        data,
        n=f"{len(lists)} users",
        headers=("user", "saw or bought last", "recommended"),
        rows=[
            [user[:8], "\n".join(found["touched"]), "\n".join(found["recommended"])]
            for user, found in lists.items()
        ],
        wide=True,
    )
