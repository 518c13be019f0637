"""How was the day, what changed and why: against plain recounts, and the promises around them."""

from __future__ import annotations

import csv
import html
import io
import json
import re
import shutil
import statistics
import subprocess
import xml.etree.ElementTree as ElementTree
from datetime import date, timedelta
from pathlib import Path

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_reports_page import (
    NIGHT,
    data_inside,
    fresh,
    home,
    opened,
    page,
    panel,
    recount,
    report,
    shop,
    words,
)

from audit import nights
from core.paths import Paths
from reports import changes, entry, expectation, plots
from reports.build import Report, build
from reports.morning import LABELS, data_reasons, yesterday
from reports.panels import Source

__all__ = ["home", "page", "report"]  # fixtures


def tiles(page: ElementTree.Element) -> dict[str, ElementTree.Element]:
    found = {(item.get("id") or ""): item for item in page.iter("li")}
    return {key.removeprefix("tile_"): item for key, item in found.items() if "tile_" in key}


def csv_rows(element: ElementTree.Element) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(data_inside(element).decode())))


def measured(paths: Paths, night: date = NIGHT) -> list[dict]:
    with opened(paths.marts) as connection:
        return expectation.measures(connection, night).to_pylist()


# --- yesterday against expectation ---------------------------------------------------------------


def test_tiles_equal_a_plain_recount_of_the_day(home: Paths, page: ElementTree.Element) -> None:
    day = f"DATE '{NIGHT}'"
    ((visitors, buyers_before, orders, gross, refunds, dwell, new),) = recount(
        home,
        f"""
        SELECT
            (SELECT count(DISTINCT coalesce(user_id, session_key)) FROM marts.fct_events
             WHERE event_date = {day} AND event_type != 'refund'),
            (SELECT count(DISTINCT order_id) FROM marts.fct_events AS o
             WHERE event_date = {day} AND event_type = 'purchase' AND EXISTS (
                SELECT 1 FROM marts.fct_events AS e WHERE e.user_id = o.user_id
                AND e.event_type = 'purchase' AND e.event_date < {day})),
            (SELECT count(DISTINCT order_id) FROM marts.fct_events
             WHERE event_date = {day} AND event_type = 'purchase'),
            (SELECT coalesce(sum(quantity * unit_price), 0) FROM marts.fct_events
             WHERE event_date = {day} AND event_type = 'purchase'),
            (SELECT coalesce(sum(quantity * unit_price), 0) FROM marts.fct_events
             WHERE event_date = {day} AND event_type = 'refund'),
            (SELECT median(dwell_ms) FROM marts.fct_events
             WHERE event_date = {day} AND event_type = 'view'),
            (SELECT count(*) FROM (SELECT user_id FROM marts.fct_events WHERE user_id IS NOT NULL
             GROUP BY user_id HAVING min(event_date) = {day}))
        """,
    )
    assert 0 < orders < visitors
    assert {key: words(item[1]) for key, item in tiles(page).items()} == {
        "visitors": f"{visitors}",
        "new_shoppers": f"{new}",
        "orders": f"{orders}",
        "net_revenue": f"{gross - refunds:,.0f}",
        "conversion": f"{orders / visitors * 100:.1f}%",
        "returning_share": f"{buyers_before / orders * 100:.1f}%",
        "median_dwell_ms": f"{dwell / 1000:.1f} s",
        "refunds": f"{refunds:,.0f}",
    }


def test_the_range_equals_the_rule_written_out_in_python(home: Paths) -> None:
    counts = dict(
        recount(
            home,
            "SELECT event_date, count(DISTINCT visitor_key) FROM marts.fct_events "
            "WHERE is_activity GROUP BY 1",
        )
    )
    first = min(counts)
    value = {
        first + timedelta(at): float(counts.get(first + timedelta(at), 0))
        for at in range((NIGHT - first).days + 1)
    }

    def level(day: date) -> float | None:
        before = [value[d] for at in range(1, 15) if (d := day - timedelta(at)) in value]
        return statistics.fmean(before) if len(before) >= 7 else None

    def expected(day: date) -> float | None:
        weeks = [day - timedelta(7 * week) for week in range(1, 9)]
        shares = [value[d] / size for d in weeks if d in value and (size := level(d))]
        size = level(day)
        return statistics.median(shares) * size if len(shares) >= 4 and size else None

    errors = sorted(
        (value[d] - guess) / (level(d) or 1)
        for at in range(1, 57)
        if (d := NIGHT - timedelta(at)) in value and (guess := expected(d)) is not None
    )
    assert len(errors) >= 28

    def quantile(q: float) -> float:
        at = q * (len(errors) - 1)
        low = int(at)
        high = min(low + 1, len(errors) - 1)
        return errors[low] + (errors[high] - errors[low]) * (at - low)

    guess, size = expected(NIGHT), level(NIGHT)
    assert guess is not None and size is not None
    row = next(r for r in measured(home) if r["measure"] == "visitors" and r["day"] == NIGHT)
    assert row["expected"] == pytest.approx(guess, abs=1e-5)
    assert row["low"] == max(0, (guess + quantile(0.05) * size) // 1)
    assert row["high"] == -((-(guess + quantile(0.95) * size)) // 1)


def test_the_expectation_uses_nothing_of_the_day_itself(
    home: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = fresh(tmp_path, monkeypatch, home)
    before = [row for row in measured(paths) if row["day"] == NIGHT]
    with opened(paths.marts) as connection:
        for table, day in (
            ("fct_events", "event_date"),
            ("fct_order_lines", "line_date"),
            ("dwell_stats", "stat_date"),
        ):
            connection.execute(f"DELETE FROM marts.{table} WHERE {day} = DATE '{NIGHT}'")
    after = [row for row in measured(paths) if row["day"] == NIGHT]
    ranged = ("measure", "expected", "low", "high")
    assert [[row[name] for name in ranged] for row in before] == [
        [row[name] for name in ranged] for row in after
    ]
    # nobody is new in this shop's last weeks: of what never came nothing is expected
    assert [row["measure"] for row in before if row["low"] is None] == ["new_shoppers"]
    assert {row["measure"]: row["value"] for row in after}["visitors"] == 0
    assert before[0]["value"] > 0 and after[0]["state"] == "below"


def test_days_held_are_counted_from_the_days_before(page: ElementTree.Element) -> None:
    rows = csv_rows(panel(page, "expectations"))
    for key, tile in tiles(page).items():
        past = [r for r in rows if r["measure"] == key and r["day"] != NIGHT.isoformat()]
        judged = [r for r in past if r["low"] and r["value"]]
        inside = [
            r
            for r in judged
            if float(r["low"])
            <= round(float(r["value"]), expectation.DIGITS[key])
            <= float(r["high"])
        ]
        if key == "new_shoppers":  # nobody was, in weeks
            assert not judged and "no range none in the 14 days before" in words(tile)
        elif "few" not in (tile.get("class") or ""):
            assert f"held {len(inside)} of {len(judged)} days" in words(tile)
            assert len(judged) > 20 and len(inside) > 15


def test_the_state_is_said_in_words_and_shown_in_colour(page: ElementTree.Element) -> None:
    rows = {
        r["measure"]: r
        for r in csv_rows(panel(page, "expectations"))
        if r["day"] == NIGHT.isoformat()
    }
    said = {"inside": "✓ as usual", "above": "▲ above", "below": "▼ below", "": "no range"}
    for key, tile in tiles(page).items():
        state = rows[key]["state"]
        assert said[state] in words(tile)
        assert (state or "unknown") in (tile.get("class") or "").split()


# --- what changed --------------------------------------------------------------------------------

amount = st.floats(0, 1e6, allow_nan=False)


@st.composite
def side(draw: st.DrawFn) -> changes.Side:
    """Any day a shop may have: nobody came, nobody bought, or some did."""
    visitors = draw(st.integers(0, 10_000))
    orders = draw(st.integers(0, visitors))
    return changes.Side(visitors, orders, draw(amount) if orders else 0.0, draw(amount))


@given(before=side(), now=side())
def test_factors_add_up_to_the_change(before: changes.Side, now: changes.Side) -> None:
    parts = changes.contributions(before, now)
    change = (now.gross - now.refunds) - (before.gross - before.refunds)
    assert sum(parts.values()) == pytest.approx(change, rel=1e-9, abs=1e-6)
    back = changes.contributions(now, before)
    assert {name: -part for name, part in back.items()} == pytest.approx(parts, rel=1e-9, abs=1e-6)


order = st.tuples(
    st.integers(0, 35),  # days before the night
    st.sampled_from(["search", "mail", "ads", "social", "direct", None]),
    st.sampled_from(["DE", "AT", None]),
    st.sampled_from([None, "ann", "bob", "cem"]),
    st.integers(1, 100_000),  # cents
    st.booleans(),  # sent back two days later
)


@settings(max_examples=15, deadline=None)
@given(orders=st.lists(order, min_size=1, max_size=30), span=st.sampled_from(["day", "week"]))
def test_segments_add_up_to_the_change(orders: list[tuple], span: str) -> None:
    rows = []
    for at, (back, channel, country, user, cents, refunded) in enumerate(orders):
        day = NIGHT - timedelta(back)
        rows.append((f"p{at}", day, f"o{at}", user, "purchase", channel, country, cents))
        if refunded and back >= 2:
            day += timedelta(2)
            rows.append((f"r{at}", day, f"o{at}", user, "refund", None, None, cents))
    with duckdb.connect() as connection:
        connection.execute(
            "CREATE SCHEMA marts; CREATE TABLE given(id VARCHAR, day DATE, order_id VARCHAR, "
            "user_id VARCHAR, kind VARCHAR, channel VARCHAR, country VARCHAR, cents BIGINT)"
        )
        connection.executemany("INSERT INTO given VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)
        connection.execute(
            """
            CREATE TABLE marts.fct_events AS SELECT id AS event_id, day AS event_date,
                day + TIME '12:00' AS event_ts, user_id, coalesce(user_id, order_id) AS visitor_key,
                kind AS event_type, kind = 'purchase' AS is_activity, order_id, channel, country
            FROM given;
            CREATE TABLE marts.fct_order_lines AS SELECT id AS line_id, day AS line_date, order_id,
                user_id, 'item' AS item_id, kind AS line_type,
                (CASE kind WHEN 'refund' THEN -cents ELSE cents END / 100)::DECIMAL(18, 4)
                    AS revenue
            FROM given;
            CREATE TABLE marts.dim_users AS SELECT user_id, min(event_ts) AS first_seen_at
            FROM marts.fct_events WHERE user_id IS NOT NULL GROUP BY user_id;
            CREATE TABLE marts.dim_items AS SELECT 'item' AS item_id, 'box' AS category;
            CREATE TABLE marts.dwell_stats(stat_date DATE, event_type VARCHAR, with_dwell BIGINT,
                median_ms BIGINT);
            """
        )
        found = changes.segments(connection, NIGHT, span).to_pylist()
        sides = changes.totals(connection, NIGHT, span).to_pylist()
    if len(sides) < 2:
        assert not found
        return
    before, now = sides
    sums: dict[tuple[str, str], list[float]] = {}
    for row in found:
        both = sums.setdefault((row["measure"], row["dimension"]), [0.0, 0.0])
        both[0] += row["before"]
        both[1] += row["now"]
        assert row["change"] == pytest.approx(row["now"] - row["before"], abs=1e-4)
    for (measure, _), (earlier, later) in sums.items():
        assert earlier == pytest.approx(before[measure] / before["divisor"], abs=1e-4)
        assert later == pytest.approx(now[measure] / now["divisor"], abs=1e-4)


def test_bridge_and_segments_of_the_page_tell_the_same_change(
    home: Paths, page: ElementTree.Element
) -> None:
    ((now, before),) = recount(
        home,
        f"""
        SELECT sum(revenue) FILTER (line_date > DATE '{NIGHT}' - 7),
               sum(revenue) FILTER (line_date <= DATE '{NIGHT}' - 7)
        FROM marts.fct_order_lines WHERE line_date > DATE '{NIGHT}' - 14
        """,
    )
    *parts, whole = csv_rows(panel(page, "bridge_week"))
    assert float(whole["contribution"]) == pytest.approx(float(now - before))
    assert sum(float(row["contribution"]) for row in parts) == pytest.approx(float(now - before))
    rows = csv_rows(panel(page, "segments_net_revenue_week"))
    assert {row["dimension"] for row in rows} >= {"channel", "country"}
    for name in {row["dimension"] for row in rows}:
        changed = [float(row["change"]) for row in rows if row["dimension"] == name]
        assert sum(changed) == pytest.approx(float(now - before), abs=1e-3)


def test_a_share_changes_by_points_and_a_sum_by_percent(page: ElementTree.Element) -> None:
    shown = {words(row[0]): words(row[3]) for row in next(panel(page, "week").iter("tbody"))}
    for row in csv_rows(panel(page, "week")):
        before, now = float(row["before"]), float(row["now"])
        if row["measure"] in ("conversion", "returning_share"):
            said = f"{(now - before) * 100:+.1f} points"
        else:
            said = f"{(now / before - 1) * 100:+.1f}%" if before else "-"
        assert shown.pop(LABELS.get(row["measure"], "Money an order")) == said
    assert not shown


def test_a_young_shop_is_told_how_much_can_be_judged(
    home: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, page: ElementTree.Element
) -> None:
    (lead,) = [p for p in page.iter("p") if "measures can be judged" in words(p)]
    assert words(lead).startswith("7 of 8 measures can be judged, ")
    with opened(fresh(tmp_path, monkeypatch, home).marts) as connection:
        young = date(2026, 1, 25)
        for table, day in (("fct_events", "event_date"), ("fct_order_lines", "line_date")):
            connection.execute(f"DELETE FROM marts.{table} WHERE {day} > DATE '{young}'")
        source = Source(connection, shop(), young)
        rows = expectation.measures(connection, young)
        section = yesterday(source, rows, data_reasons(source))
        assert section.lead.startswith("The shop is too young to say what is usual for a day.")
        assert {tile.state for tile in section.tiles} == {"unknown"}


def test_data_reasons_name_missing_hours_and_failed_checks(
    home: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, page: ElementTree.Element
) -> None:
    text = words(panel(page, "data_reasons"))
    assert "failed check marts.revenue.steady: 30 after 100" in text
    assert "new model" in text and "missing hours" not in text
    paths = fresh(tmp_path, monkeypatch, home)
    with opened(paths.marts) as connection:
        source = Source(connection, shop(), NIGHT)
        connection.execute("DELETE FROM marts.run_manifest WHERE section = 'check'")
        connection.execute("DELETE FROM marts.run_manifest WHERE name = 'challenger'")
        assert data_reasons(source).num_rows == 0
        connection.execute(
            "UPDATE marts.fct_events SET event_ts = event_ts + INTERVAL 3 HOUR "
            f"WHERE event_date = DATE '{NIGHT}' AND hour(event_ts) = 10"
        )
        assert data_reasons(source).to_pylist() == [
            {"what": "missing hours", "found": "No event in the hour 10:00 UTC.", "is_fault": True}
        ]
        connection.execute(
            "INSERT INTO marts.run_manifest SELECT night, 'delivery', "
            "(night - n::INTEGER)::VARCHAR, '1000', NULL, "
            "json_object('late', CASE n WHEN 0 THEN 90 ELSE 20 + n END, "
            "'quarantined', CASE n WHEN 0 THEN 9 ELSE 0 END) "
            f"FROM (SELECT DATE '{NIGHT}' AS night, n FROM range(15) r(n))"
        )
        assert data_reasons(source).to_pylist()[1]["found"] == (
            "90 late rows (8.3%) in the day's files; before, 3.3% at most."
        )
        assert data_reasons(source).num_rows == 2  # nine quarantined rows are no spike
        connection.execute("DELETE FROM marts.run_manifest WHERE section = 'delivery'")
        connection.execute(f"DELETE FROM marts.fct_events WHERE event_date = DATE '{NIGHT}'")
        (gone,) = data_reasons(source).to_pylist()
        assert gone["found"] == "Not one event of this day has arrived."
        lead = yesterday(source, expectation.measures(connection, NIGHT), data_reasons(source)).lead
        assert lead.endswith("Data: 1 problem, see below.")


def test_the_manifest_counts_late_and_quarantined_rows_by_the_day_of_their_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from orchestration.lib.manifest import deliveries
    from orchestration.lib.night import Night

    monkeypatch.setenv("PERENNIAL_VAR", str(tmp_path))
    paths, two_before = Paths("small"), NIGHT - timedelta(2)
    (paths.quarantine / "events").mkdir(parents=True)
    with duckdb.connect() as connection:
        for day, files in {
            NIGHT: ["new"] * 8,
            NIGHT - timedelta(1): ["new"] * 2,  # a local day's file begins in the UTC day before
            two_before: ["new"] * 3 + ["old"] * 5,
        }.items():
            folder = paths.landing / "events" / f"day={day}"
            folder.mkdir(parents=True)
            connection.execute("CREATE OR REPLACE TABLE f AS SELECT unnest($1) AS _file", [files])
            connection.execute(f"COPY f TO '{folder}/part.parquet'")
        connection.execute(
            "COPY (SELECT unnest(['new', 'new', 'new', 'old']) AS file, "
            "unnest(['broken', 'broken', 'late', 'excluded']) AS kind) "
            f"TO '{paths.quarantine}/events/part.parquet'"
        )
    assert deliveries(Night(shop(), paths, NIGHT)) == [
        ("delivery", str(two_before), "5", {"late": 0, "quarantined": 0}),
        ("delivery", str(NIGHT), "13", {"late": 4, "quarantined": 2}),
    ]


# --- small cohorts -------------------------------------------------------------------------------

COUNTED = {
    "segments_net_revenue_week": "shoppers",
    "deliveries": "events",
    "dwell_kinds": "with_dwell",
    "top_items_table": "buyers",
    "model_metrics_table": "n_users",
    "week": "n",
}


@pytest.mark.parametrize(("key", "column"), COUNTED.items())
def test_grey_rows_are_exactly_those_under_the_threshold(
    page: ElementTree.Element, key: str, column: str
) -> None:
    body = next(panel(page, key).iter("tbody"))
    grey = [row.get("class") == "few" for row in body]
    small = [
        bool(n) and int(n) < plots.SMALL for n in (r[column] for r in csv_rows(panel(page, key)))
    ]
    assert grey == small
    assert ("fewer than 30" in words(panel(page, key))) == any(small)


def test_some_rows_are_grey_and_some_are_not(page: ElementTree.Element) -> None:
    classes = [row.get("class") for table in page.iter("tbody") for row in table]
    assert "few" in classes and None in classes


def test_bars_of_few_are_grey(page: ElementTree.Element) -> None:
    for key, column in (("top_items", "buyers"), ("order_counts", "customers")):
        small = [int(row[column]) < plots.SMALL for row in csv_rows(panel(page, key))]
        fills = [
            plots.FAINT in (path.get("style") or "")
            for path in panel(page, key).iter("path")
            if re.search("fill: #(?!none)", path.get("style") or "")
        ]
        assert fills == small, key


# --- a phone -------------------------------------------------------------------------------------

MEASURE = """
<script>
addEventListener("load", () => {
  for (const b of document.querySelectorAll(".card b")) b.firstChild.textContent = "123,456,789";
  const boxes = ".table, .plot, nav ul, .tile .label";
  const wide = [...document.querySelectorAll("body *")].filter(
    (e) => !e.closest(boxes) && e.getBoundingClientRect().right > innerWidth + 0.5);
  const small = [...document.querySelectorAll("p, td, li, figcaption, span, a")].filter(
    (e) => !e.closest("svg") && parseFloat(getComputedStyle(e).fontSize) < 11.5);
  for (const e of document.querySelectorAll("details")) e.open = true;
  const cut = [...document.querySelectorAll(".table, .plot, nav ul")].filter(
    (e) => e.scrollWidth > e.clientWidth + 1);
  const tile = [...document.querySelectorAll(".tile")].pop().getBoundingClientRect().bottom;
  parent.postMessage(JSON.stringify({
    window: innerWidth, page: document.documentElement.scrollWidth, last_tile: tile,
    wide: wide.map((e) => e.tagName + "." + e.className), small: small.length,
    cut: cut.map((e) => e.className + " of " + e.parentElement.id)}), "*");
});
</script>
"""


def test_at_390_pixels_nothing_is_wider_than_the_screen(report: Report, tmp_path: Path) -> None:
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium on this machine")
    inner = html.escape(report.path.read_text().replace("</body>", f"{MEASURE}</body>"), quote=True)
    # a frame, because a headless window is never narrower than 500 pixels
    outer = tmp_path / "phone.html"
    outer.write_text(
        "<script>addEventListener('message', (e) => { document.title = e.data; });</script>"
        f'<iframe width="390" height="844" style="border: 0" srcdoc="{inner}"></iframe>'
    )
    dumped = subprocess.run(
        [
            chromium,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-background-networking",
            f"--user-data-dir={tmp_path / 'profile'}",
            "--virtual-time-budget=4000",
            "--dump-dom",
            outer.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    ).stdout
    title = re.search("<title>(.*?)</title>", dumped)
    assert title, dumped[:2000]
    found = json.loads(html.unescape(title.group(1)))
    assert found["window"] == 390
    assert found["page"] <= 390 and found["wide"] == []
    assert found["small"] == 0
    assert found["cut"] == []
    assert found["last_tile"] <= 844, "the measures of the day do not fit on the first screen"


# --- a night that failed -------------------------------------------------------------------------


def test_the_entry_page_is_the_report_of_the_night(report: Report) -> None:
    assert (report.path.parents[1] / "index.html").read_bytes() == report.path.read_bytes()


def test_a_failed_night_is_told_above_the_report_that_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, report: Report
) -> None:
    monkeypatch.setenv("PERENNIAL_VAR", str(tmp_path))
    paths, page, later = Paths("small"), report.path.read_text(), NIGHT + timedelta(1)
    docs = paths.audit(later) / "data_docs" / "index.html"
    docs.parent.mkdir(parents=True)
    docs.write_text("evidence")
    (paths.home / "reports").mkdir()
    front = entry.show(paths, page)
    for _ in range(2):  # told twice, it is there once
        entry.tell_failure(paths, later, "small__audit_marts", ["marts.fct_orders.revenue_week"])
    told = ElementTree.fromstring(front.read_text().removeprefix("<!DOCTYPE html>"))
    (notice,) = [p for p in told.iter("p") if p.get("role") == "alert"]
    assert "Night 2026-04-01 failed at small__audit_marts" in words(notice)
    assert "marts.fct_orders.revenue_week" in words(notice)
    (link,) = notice.iter("a")
    assert (front.parent / (link.get("href") or "")).resolve() == docs.resolve()
    assert len(front.read_text()) < len(page) + 1000
    # an earlier night that is published again does not hide it; a night as late does
    entry.clear_failure(paths, NIGHT)
    entry.show(paths, page)
    assert "Night 2026-04-01 failed" in front.read_text()
    entry.clear_failure(paths, later)
    entry.show(paths, page)
    assert front.read_text() == page


def test_a_restored_night_is_what_the_entry_page_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: Paths
) -> None:
    from core.shop import KeepNights
    from orchestration.lib import state

    paths = fresh(tmp_path, monkeypatch, home)
    monkeypatch.setattr(state, "load_shop", lambda name: shop())
    front, later = paths.home / "reports" / "index.html", NIGHT + timedelta(1)
    with opened(paths.marts) as connection:
        connection.execute("DELETE FROM marts.run_manifest WHERE section = 'model'")
    build(shop(), paths, NIGHT)
    nights.keep(paths, NIGHT, {"night": NIGHT.isoformat()}, KeepNights())
    newer = Path(shutil.copy(paths.marts, tmp_path / "marts.duckdb"))
    with opened(newer) as connection:
        connection.execute(f"UPDATE marts.run_manifest SET night = DATE '{later}'")
    newer.replace(paths.marts)
    nights.keep(paths, later, {"night": later.isoformat()}, KeepNights())
    newest = build(shop(), paths, later).path.read_text()
    assert front.read_text() == newest

    state.restore_night("small", NIGHT)
    told = ElementTree.fromstring(front.read_text().removeprefix("<!DOCTYPE html>"))
    (notice,) = [p for p in told.iter("p") if p.get("role") == "status"]
    assert f"the night of {NIGHT} is the one that is published now" in words(notice)
    assert f"The night of {NIGHT}, by UTC days." in words(told)
    # a failure is told besides, and the next night that is published takes both away
    entry.tell_failure(paths, later, "small__audit_marts", [])
    assert "Restored:" in front.read_text() and f"Night {later} failed" in front.read_text()
    entry.clear_failure(paths, later)
    # reports may be kept for a shorter time than nights
    shutil.rmtree(paths.report(later))
    state.restore_night("small", later)
    assert "is no longer kept" in front.read_text() and f"night of {later}" in front.read_text()
    build(shop(), paths, later)
    assert front.read_text() == newest


def test_a_first_night_that_fails_is_told_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PERENNIAL_VAR", str(tmp_path))
    front = entry.tell_failure(Paths("small"), NIGHT, "small__raw", [])
    assert "No night of small has been published yet" in front.read_text()
    assert "Night 2026-03-31 failed at small__raw." in front.read_text()


def test_the_alert_hook_writes_the_notice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real run that fails in its audit, with the hook of the nightly jobs."""
    from dagster import DagsterInstance, job, op

    from audit import results
    from orchestration.lib.alerts import tell_of_failure

    monkeypatch.setenv("PERENNIAL_VAR", str(tmp_path))
    monkeypatch.delenv("PERENNIAL_WEBHOOK_URL", raising=False)
    paths = Paths("small")
    bad = results.Check("marts.users.lost", "marts", True, False, "m", "o", "e", 1)
    warned = results.Check("marts.revenue.steady", "marts", False, False, "m", "o", "e", 1)
    results.write(paths, NIGHT, "marts", [bad, warned])

    @op(name="small__audit_marts")
    def audit() -> None:
        raise ValueError("a check failed")

    @job(name="small_night", hooks={tell_of_failure}, tags={"shop": "small"})
    def night() -> None:
        audit()

    with DagsterInstance.ephemeral() as instance:
        done = night.execute_in_process(
            raise_on_error=False, instance=instance, tags={"dagster/partition": NIGHT.isoformat()}
        )
    assert not done.success
    text = (paths.home / "reports" / "index.html").read_text()
    assert "Night 2026-03-31 failed at small__audit_marts: marts.users.lost.</b>" in text
