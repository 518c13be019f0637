"""Campaigns: who may be chosen, who is left out by lot, and whether it helped."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.stats import kstest, pearsonr

from campaigns import CampaignError
from campaigns.audience import LOT, choose, hand_out, handed_out
from campaigns.results import rate_interval, revenue_interval, tables
from campaigns.spec import Campaign, load
from campaigns.who import check_select, tonights_marts
from core.paths import Paths
from core.shop import SHOPS
from privacy.formats import erase, find
from privacy.person import Person

NIGHT = date(2026, 3, 10)
GOOD: dict[str, Any] = {
    "name": "spring",
    "title": "Spring",
    "who": "SELECT user_id FROM marts.dim_users",
    "action": "write",
    "holdout": 0.2,
    "cap_days": 7,
    "outcome_days": 30,
}


def campaign(**changes: Any) -> Campaign:
    return Campaign.model_validate({**GOOD, **changes})


@pytest.fixture
def paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Paths:
    """A shop of 200 users without an order."""
    monkeypatch.setenv("PERENNIAL_VAR", str(tmp_path))
    paths = Paths("small")
    warehouse(paths, 200)
    return paths


def warehouse(paths: Paths, users: int) -> None:
    paths.home.mkdir(exist_ok=True)
    paths.warehouse.unlink(missing_ok=True)
    with duckdb.connect(str(paths.warehouse)) as connection:
        connection.execute("CREATE SCHEMA marts; CREATE SCHEMA staging")
        connection.execute(
            "CREATE TABLE marts.dim_users AS "
            f"SELECT 'u' || i AS user_id, i FROM range({users}) t(i)"
        )
        connection.execute("CREATE TABLE staging.stg_messages AS SELECT 'call me' AS text")
        connection.execute(
            "CREATE TABLE marts.fct_orders (order_id VARCHAR, user_id VARCHAR, order_date DATE, "
            "net_revenue DECIMAL(38, 4), is_valid BOOLEAN)"
        )
        connection.execute(
            "CREATE TABLE marts.fct_events AS SELECT NULL::VARCHAR AS user_id, 'g' AS visitor_key"
        )


def sql(paths: Paths, *statements: str) -> None:
    with duckdb.connect(str(paths.warehouse)) as connection:
        for statement in statements:
            connection.execute(statement)


def audience(paths: Paths) -> list[dict[str, Any]]:
    return pq.read_table(paths.campaigns / "campaign_audience.parquet").to_pylist()


def results(paths: Paths) -> list[dict[str, Any]]:
    return pq.read_table(paths.campaigns / "campaign_results.parquet").to_pylist()


def a_night(paths: Paths, night: date, *campaigns: Campaign) -> int:
    """A whole night: choose, measure, and hand out as if it had been published."""
    chosen = choose(campaigns, paths, night)
    tables(campaigns, paths, night)
    hand_out(paths, night)
    return chosen


# --- the file ----------------------------------------------------------------------------------

WRONG = [
    ({"hold_out": 0.2}, "there is no field `hold_out`.*the fields are name, title, who"),
    ({"action": None}, r"`action` is missing: add it \(what is to be done"),
    ({"holdout": 0.7}, "`holdout` is 0.7: input should be less than or equal to 0.5"),
    ({"holdout": "a fifth"}, "`holdout` is 'a fifth'.*share left out by lot"),
    ({"cap_days": 0}, "`cap_days` is 0"),
    ({"end": "2026-01-01", "start": "2026-02-01"}, "end 2026-01-01 is before start 2026-02-01"),
    ({"name": "other"}, "call the file other.yml"),
    ({"who": "SELEC user_id"}, "who is no SQL.*SELEC"),
    ({"who": "SELECT user_id FROM dim_users"}, "who reads dim_users.*tables of `marts` only"),
]


@pytest.mark.parametrize(("changes", "says"), WRONG)
def test_a_wrong_file_is_refused_and_told_what_to_do(
    tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    given = {key: value for key, value in (GOOD | changes).items() if value is not None}
    (tmp_path / "spring.yml").write_text(yaml.safe_dump(given))
    with pytest.raises(CampaignError, match=f"(?s)spring.yml: .*{says}"):
        load(tmp_path)


@pytest.mark.parametrize("text", ["- a\n- b\n", "a: [", "", "just words"])
def test_what_is_no_campaign_at_all_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "spring.yml").write_text(text)
    with pytest.raises(CampaignError, match=r"spring.yml"):
        load(tmp_path)


def test_the_campaigns_of_every_shop_can_be_read() -> None:
    found = {path.name: load(path / "campaigns") for path in SHOPS.iterdir() if path.is_dir()}
    assert len(found["demo"]) >= 2 and found["online_retail"]


# --- who ---------------------------------------------------------------------------------------

FORBIDDEN = [
    "SELECT user_id FROM read_csv('/etc/passwd')",
    "SELECT user_id FROM '/etc/passwd'",
    "SELECT user_id FROM marts.dim_users WHERE user_id IN (FROM read_text('/etc/passwd'))",
    "SELECT user_id FROM marts.dim_users, LATERAL (FROM glob('/*'))",
    "COPY (SELECT user_id FROM marts.dim_users) TO 'OUT'",
    "SELECT 1 AS user_id; COPY (SELECT 1) TO 'OUT'",
    "ATTACH 'OUT' AS other",
    "DELETE FROM marts.dim_users",
    "WITH a AS (DELETE FROM warehouse.marts.dim_users RETURNING user_id) SELECT user_id FROM a",
    "WITH a AS (INSERT INTO marts.dim_users VALUES ('x', 1) RETURNING user_id) FROM a",
    "SELECT text AS user_id FROM warehouse.staging.stg_messages",
    "SELECT user_id FROM query('COPY (SELECT 1) TO ''OUT''')",
    "SET enable_external_access = true",
    "INSTALL httpfs",
    "PRAGMA database_list",
    "EXPORT DATABASE 'OUT'",
    "",
]
UNSTEADY = [
    "SELECT user_id FROM marts.dim_users WHERE random() < 0.5",
    "SELECT user_id FROM marts.dim_users WHERE current_date > DATE '2026-01-01'",
    "SELECT user_id FROM marts.dim_users WHERE now() > TIMESTAMP '2026-01-01'",
    "SELECT user_id FROM marts.dim_users USING SAMPLE 10",
    "SELECT uuid() AS user_id",
]


@pytest.mark.parametrize("who", [*FORBIDDEN, *UNSTEADY])
def test_a_who_that_does_more_than_ask_the_marts_is_refused(who: str) -> None:
    with pytest.raises(CampaignError):
        check_select(who)


@pytest.mark.parametrize("who", [each for each in FORBIDDEN if "(SELECT 1)" not in each and each])
def test_the_second_wall_holds_without_the_first(paths: Paths, who: str) -> None:
    out = paths.home / "out"
    before = paths.warehouse.read_bytes()
    with tonights_marts(paths, NIGHT, set()) as connection:
        try:
            rows = connection.execute(who.replace("OUT", str(out))).fetchall()
        except duckdb.Error:
            rows = []
    assert not any("root:" in str(row) for row in rows)
    assert not out.exists() and paths.warehouse.read_bytes() == before


GOOD_WHO = [
    "WITH a AS (SELECT user_id FROM marts.dim_users) SELECT user_id FROM a -- all",
    "FROM marts.dim_users; -- all",
    "SELECT user_id FROM marts.dim_users WHERE night() = DATE '2026-03-10'",
    "SELECT user_id, i FROM marts.dim_users UNION SELECT user_id, 1 FROM marts.dim_users",
    "SELECT 'u' || n AS user_id FROM range(500) AS t(n)",
]


@pytest.mark.parametrize("who", GOOD_WHO)
def test_a_select_over_the_marts_chooses_its_users_once(paths: Paths, who: str) -> None:
    assert choose([campaign(who=who)], paths, NIGHT) == 200


def test_predictions_may_be_asked_before_there_are_any(paths: Paths) -> None:
    who = "SELECT user_id FROM marts.user_predictions WHERE target = 'churn' AND value > 0.5"
    assert choose([campaign(who=who)], paths, NIGHT) == 0


@pytest.mark.parametrize(
    ("who", "says"),
    [
        ("SELECT i FROM marts.dim_users", "gives no column user_id but i: SELECT user_id FROM"),
        ("SELECT user_id FROM marts.dim_user", "does not fit the marts.*dim_user"),
        ("SELECT usr FROM marts.dim_users", "does not fit the marts.*usr"),
        ("SELECT user_id FROM marts.dim_users WHERE user_id > 3", "does not fit the marts.*type"),
    ],
)
def test_a_who_that_does_not_fit_the_marts_says_so(paths: Paths, who: str, says: str) -> None:
    with pytest.raises(CampaignError, match=f"campaign spring: who {says}"):
        choose([campaign(who=who)], paths, NIGHT)
    assert not paths.campaigns.exists()


# --- whom tonight ------------------------------------------------------------------------------


def test_a_guest_is_never_chosen(paths: Paths) -> None:
    guests = "SELECT visitor_key AS user_id FROM marts.fct_events"
    unknown = "UNION ALL SELECT user_id FROM marts.fct_events"
    assert choose([campaign(who=f"{guests} {unknown}")], paths, NIGHT) == 0


def test_a_night_run_again_changes_nothing_and_a_later_one_adds(paths: Paths) -> None:
    half = campaign(who="SELECT user_id FROM marts.dim_users WHERE i < 100")
    assert a_night(paths, NIGHT, half) == 100
    files = {path: path.read_bytes() for path in paths.campaigns.rglob("*") if path.is_file()}
    other = campaign(holdout=0.5, action="another", who="SELECT user_id FROM marts.dim_users")
    for again in (half, other):  # also when the file has changed since: it was handed out
        assert a_night(paths, NIGHT, again) == 100
        chosen = {path: path.read_bytes() for path in paths.campaigns.glob(f"{NIGHT}/*")}
        assert chosen.items() <= files.items()
    assert a_night(paths, NIGHT + timedelta(days=1), other) == 100
    rows = audience(paths)
    assert len({row["user_id"] for row in rows}) == len(rows) == 200
    assert {row["entered_night"] for row in rows} == {NIGHT, NIGHT + timedelta(days=1)}


def test_what_is_handed_out_are_all_but_the_holdouts(paths: Paths) -> None:
    a_night(paths, NIGHT, campaign(holdout=0.5))
    rows = audience(paths)
    treated = {row["user_id"] for row in rows if not row["is_holdout"]}
    assert 60 < len(treated) < 140
    folder = paths.campaigns / NIGHT.isoformat()
    exported = pq.read_table(folder / "audience.parquet").to_pylist()
    with (folder / "audience.csv").open(newline="") as file:
        written = list(csv.DictReader(file))
    assert {row["user_id"] for row in exported} == {row["user_id"] for row in written} == treated
    assert len(written) == len(exported) == len(treated)
    assert written[0]["action"] == "write" and written[0]["entered_night"] == NIGHT.isoformat()
    assert "is_holdout" not in written[0]


def test_of_two_that_want_a_user_the_higher_priority_wins_and_the_other_waits(paths: Paths) -> None:
    first = campaign(name="first", priority=2, cap_days=5)
    second = campaign(name="second", priority=1, cap_days=3)
    assert a_night(paths, NIGHT, second, first) == 200
    assert {row["campaign"] for row in audience(paths)} == {"first"}
    for later, chosen in ((1, 0), (4, 0), (5, 200), (30, 0)):
        assert a_night(paths, NIGHT + timedelta(days=later), second, first) == chosen
    assert {row["campaign"] for row in audience(paths)} == {"first", "second"}


def test_a_choice_that_was_never_handed_out_counts_for_nothing(paths: Paths) -> None:
    """A night that failed after it chose: nobody was talked to."""
    choose([campaign()], paths, NIGHT)
    tables([campaign()], paths, NIGHT)
    assert handed_out(paths) == []
    assert a_night(paths, NIGHT + timedelta(days=1), campaign()) == 200
    assert {row["entered_night"] for row in audience(paths)} == {NIGHT + timedelta(days=1)}
    assert a_night(paths, NIGHT, campaign()) == 0  # made good later: they are taken by then


def test_a_campaign_chooses_from_its_start_to_its_end(paths: Paths) -> None:
    short = campaign(start=NIGHT, end=NIGHT)
    around = [a_night(paths, NIGHT + timedelta(days=days), short) for days in (-1, 0, 1)]
    assert around == [0, 200, 0]


def test_a_shop_without_campaigns_has_the_tables_and_nothing_else(paths: Paths) -> None:
    assert load(paths.home / "none") == []
    assert a_night(paths, NIGHT) == 0
    assert audience(paths) == [] and results(paths) == []
    assert [path.name for path in sorted(paths.campaigns.iterdir())] == [
        "campaign_audience.parquet",
        "campaign_results.parquet",
    ]


def test_a_campaign_taken_away_is_still_measured(paths: Paths) -> None:
    a_night(paths, NIGHT, campaign(outcome_days=1))
    a_night(paths, NIGHT + timedelta(days=1))
    [row] = results(paths)
    assert (row["campaign"], row["n_treated"] + row["n_holdout"]) == ("spring", 200)


WANTS = st.lists(
    st.tuples(
        st.integers(0, 12),  # the night
        st.lists(st.tuples(st.integers(0, 9), st.integers(1, 10)), min_size=1, max_size=10),
    ),
    min_size=2,
    max_size=6,
)
CAPS = st.lists(st.tuples(st.integers(1, 9), st.integers(0, 2)), min_size=3, max_size=3)


@given(nights=WANTS, caps=CAPS)
@settings(
    max_examples=8,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_in_any_order_of_nights_nobody_is_over_a_cap_or_drawn_anew(
    tmp_path_factory: pytest.TempPathFactory,
    nights: list[tuple[int, list[tuple[int, int]]]],
    caps: list[tuple[int, int]],
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PERENNIAL_VAR", str(tmp_path_factory.mktemp("var")))
        paths = Paths("small")
        warehouse(paths, 20)
        for offset, spans in nights:
            campaigns = [
                campaign(
                    name=f"c{number}",
                    cap_days=cap,
                    priority=priority,
                    who="SELECT user_id FROM marts.dim_users "
                    f"WHERE i BETWEEN {low} AND {low + length}",
                )
                for number, ((cap, priority), (low, length)) in enumerate(
                    zip(caps, [*spans, *spans, *spans], strict=False)
                )
            ]
            a_night(paths, NIGHT + timedelta(days=offset), *campaigns)
        tables([], paths, NIGHT + timedelta(days=12))
        rows = audience(paths)
    assert len({(row["campaign"], row["user_id"]) for row in rows}) == len(rows)
    for one in rows:
        for other in rows:
            if one is not other and one["user_id"] == other["user_id"]:
                apart = abs((one["entered_night"] - other["entered_night"]).days)
                assert apart >= max(one["cap_days"], other["cap_days"])
    drawn = lots([(row["campaign"], row["user_id"]) for row in rows])
    assert [row["is_holdout"] for row in rows] == [lot < 0.2 for lot in drawn]


# --- the lot -----------------------------------------------------------------------------------


def lots(pairs: Sequence[tuple[str, str]]) -> list[float]:
    with duckdb.connect() as connection:
        connection.execute("CREATE TABLE pairs (n INTEGER, campaign VARCHAR, user_id VARCHAR)")
        if pairs:
            connection.executemany(
                "INSERT INTO pairs VALUES (?, ?, ?)", [(n, *pair) for n, pair in enumerate(pairs)]
            )
        return [
            lot for (lot,) in connection.execute(f"SELECT {LOT} FROM pairs ORDER BY n").fetchall()
        ]


def test_the_lot_is_even_and_of_one_campaign_says_nothing_about_another() -> None:
    with duckdb.connect() as connection:
        draws = {
            name: connection.execute(
                f"SELECT {LOT} FROM (SELECT '{name}' AS campaign, md5(i::VARCHAR) AS user_id, i "
                "FROM range(50000) t(i)) ORDER BY i"
            ).fetchall()
            for name in ("spring", "summer")
        }
    spring, summer = ([lot for (lot,) in drawn] for drawn in draws.values())
    assert 0 <= min(spring) < 1e-3 and 0.999 < max(spring) < 1
    assert kstest(spring, "uniform").pvalue > 0.01
    assert abs(pearsonr(spring, summer).statistic) < 0.02


def test_the_lot_of_a_user_never_changes() -> None:
    """Worked once with Python's hashlib; another number would draw holdouts anew half-way."""
    assert lots([("spring", "0123456789abcdef")]) == [0.9508809533258398]


# --- did it help -------------------------------------------------------------------------------


def shop_of_campaigns(paths: Paths, campaigns: int, users: int, effect: float) -> list[Campaign]:
    """Each campaign has users of its own: 10 % order anyway, `effect` more where treated.

    An order is worth 20, or 30 by one who was treated.
    """
    warehouse(paths, campaigns * users)
    made = [
        campaign(
            name=f"c{n}",
            holdout=0.5,
            who=f"SELECT user_id FROM marts.dim_users WHERE i // {users} = {n}",
        )
        for n in range(campaigns)
    ]
    assert a_night(paths, NIGHT, *made) == campaigns * users
    sql(
        paths,
        f"""
        INSERT INTO marts.fct_orders
        SELECT 'o' || user_id, user_id, entered_night + 1 + (hash(user_id) % 30)::INTEGER,
               CASE WHEN is_holdout THEN 20 ELSE 30 END, true
        FROM '{paths.campaigns}/campaign_audience.parquet'
        WHERE hash('will order', user_id) % 10000 / 10000
            < 0.1 + CASE WHEN is_holdout THEN 0 ELSE {effect} END
        """,
    )
    tables(made, paths, NIGHT + timedelta(days=30))
    return made


def test_a_planted_effect_is_found_and_its_interval_holds_as_often_as_it_says(
    paths: Paths,
) -> None:
    shop_of_campaigns(paths, campaigns=100, users=400, effect=0.08)
    rows = results(paths)
    assert len(rows) == 100 and all(row["n_treated"] + row["n_holdout"] == 400 for row in rows)
    held = sum(row["rate_low"] <= 0.08 <= row["rate_high"] for row in rows) / 100
    assert 0.9 <= held <= 0.99
    assert sum(row["rate_difference"] for row in rows) / 100 == pytest.approx(0.08, abs=0.01)
    earned = 0.18 * 30 - 0.1 * 20
    held = sum(row["revenue_low"] <= earned <= row["revenue_high"] for row in rows) / 100
    assert 0.9 <= held <= 0.99


def test_what_helped_is_said_to_have_helped(paths: Paths) -> None:
    shop_of_campaigns(paths, campaigns=1, users=6000, effect=0.08)
    [row] = results(paths)
    assert row["verdict"].startswith("It helped: ")
    assert f"{row['treated_rate']:.1%}" in row["verdict"]
    shop_of_campaigns(Paths("other"), campaigns=1, users=6000, effect=-0.08)
    assert results(Paths("other"))[0]["verdict"].startswith("It did harm: ")
    shop_of_campaigns(Paths("third"), campaigns=1, users=6000, effect=0)
    assert results(Paths("third"))[0]["verdict"].startswith("No effect shown")
    shop_of_campaigns(Paths("fourth"), campaigns=1, users=40, effect=0.5)
    assert results(Paths("fourth"))[0]["verdict"].startswith("Too few to tell")


def test_only_days_that_are_over_and_orders_within_them_count(paths: Paths) -> None:
    late = NIGHT + timedelta(days=10)
    half = "SELECT user_id FROM marts.dim_users WHERE i {} 100"
    a_night(paths, NIGHT, campaign(who=half.format("<"), holdout=0))
    a_night(paths, late, campaign(who=half.format(">="), holdout=0))
    orders = [  # user, day, revenue, valid
        ("u0", NIGHT, 5, True),
        ("u1", NIGHT + timedelta(days=1), 7, True),
        ("u1", NIGHT + timedelta(days=2), 4, True),
        ("u2", NIGHT + timedelta(days=30), 9, True),
        ("u3", NIGHT + timedelta(days=31), 11, True),
        ("u4", NIGHT + timedelta(days=3), 0, False),
        ("u150", late + timedelta(days=1), 13, True),
    ]
    for n, (user, day, revenue, valid) in enumerate(orders):
        sql(
            paths,
            f"INSERT INTO marts.fct_orders VALUES ('o{n}', '{user}', '{day}', {revenue}, {valid})",
        )
    tables([campaign()], paths, NIGHT + timedelta(days=29))
    [row] = results(paths)
    assert (row["n_waiting"], row["n_treated"], row["treated_rate"]) == (200, 0, None)
    assert row["verdict"] == "Not known yet: nobody's 30 days are over."
    tables([campaign()], paths, NIGHT + timedelta(days=30))
    [row] = results(paths)
    assert (row["n_waiting"], row["n_treated"], row["n_holdout"]) == (100, 100, 0)
    assert row["treated_rate"] == 0.02 and row["treated_revenue"] == pytest.approx(0.20)
    assert row["verdict"].startswith("Cannot be told")
    tables([campaign()], paths, NIGHT + timedelta(days=40))
    [row] = results(paths)
    assert (row["n_waiting"], row["n_treated"], row["treated_rate"]) == (0, 200, 0.015)


def test_the_intervals_are_those_of_the_books() -> None:
    # Newcombe (1998), table II, method 10: 56/70 against 48/80
    difference, low, high = rate_interval(56, 70, 48, 80)
    assert (round(difference, 4), round(low, 4), round(high, 4)) == (0.2, 0.0524, 0.3339)
    # Welch's interval, as scipy makes it of the raw values
    from scipy.stats import ttest_ind

    one, other = [1.0, 2.0, 4.0, 9.0, 3.0], [0.0, 1.0, 1.5, 2.0]
    book = ttest_ind(one, other, equal_var=False).confidence_interval()
    mean, variance = sum(one) / 5, 9.7
    found = revenue_interval((mean, variance, 5), (1.125, 0.729166666666666, 4))
    assert found == pytest.approx((mean - 1.125, book.low, book.high))


# --- people ------------------------------------------------------------------------------------


def test_a_person_who_is_forgotten_leaves_every_file_and_nobody_else_does(paths: Paths) -> None:
    a_night(paths, NIGHT, campaign(holdout=0))
    person = Person("C1", "u7")
    files = [path for path in paths.campaigns.rglob("*") if path.is_file()]
    holding = [path for path in files if find(path, person)]
    assert len(holding) == 4  # chosen, handed out twice, and the table of all nights
    for path in holding:
        erase(path, person)
    assert not any(find(path, person) for path in files)
    tables([campaign()], paths, NIGHT)
    assert len(audience(paths)) == 199
