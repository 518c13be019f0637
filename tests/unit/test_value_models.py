"""BG/NBD, Pareto/NBD and Gamma-Gamma: published values, exact gradients, any size of customer."""

from __future__ import annotations

from pathlib import Path

import duckdb
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.special import hyp2f1

from core.shop import ROOT
from ml import ModelError, TooLittleHistory
from ml.value import bg_nbd, gamma_gamma, pareto_nbd
from ml.value.bg_nbd import BgNbd
from ml.value.gamma_gamma import GammaGamma, correlation
from ml.value.history import Array, History
from ml.value.pareto_nbd import ParetoNbd

CDNOW = ROOT.parent / "shared" / "data" / "cdnow" / "CDNOW_sample.txt"
ONE = History.of(np.array([2.0]), np.array([30.43]), np.array([38.86]))
"""The customer of the papers' examples, in weeks."""


@pytest.fixture(scope="module")
def cdnow() -> dict[str, Array]:
    """Weeks until 30 September 1997; purchases of one day are one."""
    if not Path(CDNOW).exists():
        pytest.skip(f"{CDNOW} is not here")
    found = duckdb.sql(
        f"""
        WITH lines AS (
            SELECT regexp_split_to_array(trim(line), '\\s+') AS part
            FROM read_csv('{CDNOW}', columns = {{'line': 'VARCHAR'}}, delim = '|', header = false)
        ), days AS (
            SELECT part[2] AS id, strptime(part[3], '%Y%m%d')::DATE AS day,
                   sum(part[5]::DOUBLE) AS amount
            FROM lines GROUP BY ALL
        ), first AS (SELECT id, min(day) AS first FROM days GROUP BY id)
        SELECT count(*) FILTER (day > first) AS x,
               (max(day) - min(first)) / 7.0 AS recency,
               (DATE '1997-09-30' - min(first)) / 7.0 AS age,
               coalesce(avg(amount) FILTER (day > first), 0) AS mean
        FROM days JOIN first USING (id) WHERE day <= '1997-09-30' GROUP BY id ORDER BY id
        """
    ).fetchnumpy()
    return {name: np.asarray(values, np.float64) for name, values in found.items()}


def history(of: dict[str, Array]) -> History:
    return History.of(of["x"], of["recency"], of["age"])


def test_bg_nbd_gives_the_values_of_its_paper(cdnow: dict[str, Array]) -> None:
    model, fit = BgNbd.fit(history(cdnow))
    assert len(cdnow["x"]) == 2357
    np.testing.assert_allclose(
        [model.r, model.alpha, model.a, model.b], [0.243, 4.414, 0.793, 2.426], atol=5e-4
    )
    assert fit.log_likelihood == pytest.approx(-9582.43, abs=0.005)
    assert model.expected(ONE, 39.0)[0] == pytest.approx(1.226, abs=5e-4)
    assert model.p_alive(ONE)[0] == pytest.approx(0.7266, abs=5e-5)


def test_pareto_nbd_gives_the_values_of_its_note(cdnow: dict[str, Array]) -> None:
    model, fit = ParetoNbd.fit(history(cdnow))
    # Fader, Hardie and Lee 2005, table 2
    np.testing.assert_allclose(
        [model.r, model.alpha, model.s, model.beta], [0.553, 10.578, 0.606, 11.669], atol=5e-4
    )
    assert fit.log_likelihood == pytest.approx(-9595.0, abs=0.05)


def test_gamma_gamma_gives_the_values_of_its_note(cdnow: dict[str, Array]) -> None:
    assert (cdnow["x"] > 0).sum() == 946
    model, _ = GammaGamma.fit(cdnow["x"], cdnow["mean"])
    np.testing.assert_allclose([model.p, model.q, model.v], [6.25, 3.74, 15.44], atol=5e-3)
    assert abs(correlation(cdnow["x"], cdnow["mean"])) < 0.2


parameters = st.tuples(*[st.floats(0.1, 20.0)] * 4).map(np.array)


@st.composite
def histories(draw: st.DrawFn, most: int = 5000) -> History:
    n = draw(st.integers(1, 6))
    repeats = np.array(draw(st.lists(st.integers(0, most), min_size=n, max_size=n)), float)
    age = np.array(draw(st.lists(st.floats(0.5, 800), min_size=n, max_size=n)))
    share = np.array(draw(st.lists(st.floats(0.01, 1.0), min_size=n, max_size=n)))
    return History.of(repeats, np.where(repeats > 0, share * age, 0.0), age)


def numeric(objective: object, at: Array) -> Array:
    size = 1e-5 * np.maximum(np.abs(at), 0.1)
    steps = np.diag(size)
    pairs = [(objective(at + h)[0], objective(at - h)[0]) for h in steps]  # type: ignore[operator]
    return np.array(
        [(up - down) / (2 * each) for (up, down), each in zip(pairs, size, strict=True)]
    )


@pytest.mark.parametrize("of", [bg_nbd, pareto_nbd])
@given(rows=histories(most=60), at=parameters, shifts=st.lists(st.floats(-1, 1), max_size=2))
def test_gradients_are_those_of_the_likelihood(
    of: object, rows: History, at: Array, shifts: list[float]
) -> None:
    traits = np.arange(len(rows) * len(shifts)).reshape(len(rows), -1) % 3 / 2
    rows = History.of(rows.repeats, rows.recency, rows.age, traits=traits)
    at = np.array([*at, *shifts, *shifts[::-1]])
    objective = of._Objective(rows)  # type: ignore[attr-defined]
    value, gradient = objective(at)
    rough = 1e-5 * np.abs(gradient).max() + 1e-9 * abs(value) / at[:4].min()
    np.testing.assert_allclose(gradient, numeric(objective, at), rtol=1e-4, atol=rough)


@given(at=st.tuples(*[st.floats(0.3, 20.0)] * 3).map(np.array), seed=st.integers(0, 99))
def test_the_gradient_of_spend_is_that_of_its_likelihood(at: Array, seed: int) -> None:
    rng = np.random.default_rng(seed)
    objective = gamma_gamma._Objective(rng.integers(1, 40, 5).astype(float), rng.lognormal(3, 1, 5))
    value, gradient = objective(at)
    rough = 1e-5 * np.abs(gradient).max() + 1e-8 * abs(value)
    np.testing.assert_allclose(gradient, numeric(objective, at), rtol=1e-4, atol=rough)


@given(rows=histories(), at=parameters, horizon=st.floats(0.1, 2000))
def test_customers_of_any_size_have_probabilities_and_expectations(
    rows: History, at: Array, horizon: float
) -> None:
    for model in (BgNbd(*at), ParetoNbd(*at)):
        alive, expected = model.p_alive(rows), model.expected(rows, horizon)
        assert ((alive >= 0) & (alive <= 1)).all()
        assert np.isfinite(expected).all()
        assert (expected >= 0).all()
        assert (model.expected(rows, 2 * horizon) >= expected * (1 - 1e-9)).all()


@given(
    at=parameters.filter(lambda p: abs(p[2] - 1) > 0.05),
    x=st.integers(0, 20),
    share=st.floats(0.05, 1),
    horizon=st.floats(1, 100),
)
def test_bg_nbd_expects_what_the_paper_writes(
    at: Array, x: int, share: float, horizon: float
) -> None:
    r, alpha, a, b = at
    age = 40.0
    rows = History.of(np.array([x]), np.array([share * age * (x > 0)]), np.array([age]))
    z = horizon / (alpha + age + horizon)
    left = ((alpha + age) / (alpha + age + horizon)) ** (r + x)
    left *= hyp2f1(r + x, b + x, a + b + x - 1, z)
    odds = a / (b + x - 1) * ((alpha + age) / (alpha + share * age)) ** (r + x) if x else 0.0
    wanted = (a + b + x - 1) / (a - 1) * (1 - left) / (1 + odds)
    assert BgNbd(*at).expected(rows, horizon)[0] == pytest.approx(wanted, rel=1e-6, abs=1e-9)


@given(at=parameters, x=st.integers(0, 30), share=st.floats(0.05, 0.99))
def test_the_chance_of_being_lost_is_the_integral(at: Array, x: int, share: float) -> None:
    r, alpha, s, beta = at
    age, recency = 40.0, share * 40.0 * (x > 0)
    rows = History.of(np.array([x]), np.array([recency]), np.array([age]))
    # everything relative to the moment of the last purchase, lest it underflow
    last = (r + x) * np.log(alpha + recency) + (s + 1) * np.log(beta + recency)
    gone = (
        s
        * quad(
            lambda y: np.exp(last - (r + x) * np.log(alpha + y) - (s + 1) * np.log(beta + y)),
            recency,
            age,
        )[0]
    )
    alive = np.exp(last - (r + x) * np.log(alpha + age) - s * np.log(beta + age))
    assert ParetoNbd(*at).p_alive(rows)[0] == pytest.approx(alive / (alive + gone), rel=1e-5)


def simulated(n: int, seed: int, traits: bool = False) -> History:
    """Customers who buy as BG/NBD says, with r .8, alpha 6, a 1.2, b 3, for up to 60 weeks.

    With `traits`, half of them buy exp(.7) times as often, and have exp(-.5) times the a.
    """
    rng = np.random.default_rng(seed)
    trait = rng.integers(0, 2, n) if traits else np.zeros(n)
    rate = rng.gamma(0.8, 1 / 6.0, n) * np.exp(0.7 * trait)
    leave = rng.beta(1.2 * np.exp(-0.5 * trait), 3.0)
    age = rng.uniform(20, 60, n)
    x, recency, alive = np.zeros(n), np.zeros(n), np.ones(n, bool)
    now = np.zeros(n)
    while alive.any():
        now += np.where(alive, rng.exponential(1 / np.maximum(rate, 1e-12)), 0)
        buys = alive & (now < age)
        x, recency = x + buys, np.where(buys, now, recency)
        alive = buys & (rng.random(n) >= leave)
    return History.of(x, recency, age, traits=trait[:, None] if traits else None)


def test_known_parameters_lie_within_their_intervals() -> None:
    _, fit = BgNbd.fit(simulated(20_000, seed=3))
    truth = np.array([0.8, 6.0, 1.2, 3.0])
    apart = np.log(fit.parameters / truth) / np.sqrt(np.diag(fit.covariance))
    assert (np.abs(apart) < 3).all()
    drawn = np.log(fit.draws(4000, seed=0))
    np.testing.assert_allclose(np.cov(drawn.T), fit.covariance, rtol=0.15, atol=1e-4)


def test_a_search_that_begins_with_some_customers_ends_where_one_of_all_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = simulated(4000, seed=2)
    _, whole = ParetoNbd.fit(rows)
    monkeypatch.setattr(pareto_nbd, "PREVIEW", 1900)
    _, begun = ParetoNbd.fit(rows)
    error = np.sqrt(np.diag(whole.covariance))
    np.testing.assert_array_less(np.abs(np.log(begun.parameters / whole.parameters)), 1e-2 * error)
    np.testing.assert_allclose(begun.covariance, whole.covariance, rtol=1e-2)


def test_what_some_customers_leave_open_all_may_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = simulated(3000, seed=2)
    _, whole = ParetoNbd.fit(rows)
    monkeypatch.setattr(pareto_nbd, "PREVIEW", 2)
    _, begun = ParetoNbd.fit(rows)
    np.testing.assert_array_equal(begun.parameters, whole.parameters)


def test_what_sets_customers_apart_is_found() -> None:
    model, fit = BgNbd.fit(simulated(20_000, seed=5, traits=True))
    truth = np.array([0.7, -0.5])
    apart = (fit.parameters[4:] - truth) / np.sqrt(np.diag(fit.covariance))[4:]
    assert (np.abs(apart) < 3).all()
    np.testing.assert_allclose(fit.interval()[4:].mean(1), fit.parameters[4:])
    alike = [np.full(2, 3.0), np.full(2, 10.0), np.full(2, 20.0)]
    plain, eager = model.expected(History.of(*alike, traits=np.array([[0.0], [1.0]])), 10.0)
    assert eager > plain
    pareto, _ = ParetoNbd.fit(simulated(4000, seed=5, traits=True))
    assert pareto.buying[0] > 0.3
    with pytest.raises(ModelError, match="1 traits, not 0"):
        model.p_alive(ONE)


def test_equal_customers_are_counted_not_repeated() -> None:
    some = simulated(2000, seed=1)
    times = np.arange(2000) % 4 + 1
    columns = [some.repeats, some.recency, some.age]
    written_out = History.of(*(np.repeat(each, times) for each in columns))
    counted = History.of(*columns, customers=times.astype(float))
    for model in (BgNbd, ParetoNbd):
        one, other = model.fit(written_out)[1], model.fit(counted)[1]
        assert one.log_likelihood == pytest.approx(other.log_likelihood, rel=1e-9)
        np.testing.assert_allclose(one.parameters, other.parameters, rtol=1e-3)


@pytest.mark.parametrize(
    ("repeats", "recency", "age", "words"),
    [
        ([1.5], [1.0], [2.0], "no count"),
        ([1.0], [3.0], [2.0], "after the end"),
        ([1.0], [0.0], [2.0], "at the time of their first"),
        ([0.0], [1.0], [2.0], "no repeat, but a time"),
        ([np.nan], [1.0], [2.0], "not numbers"),
        ([1.0, 2.0], [1.0], [2.0], "different lengths"),
    ],
)
def test_what_cannot_be_a_customer_is_refused(
    repeats: list[float], recency: list[float], age: list[float], words: str
) -> None:
    with pytest.raises(ModelError, match=words):
        History.of(np.array(repeats), np.array(recency), np.array(age))


def test_too_little_says_so() -> None:
    nobody = np.zeros(0)
    with pytest.raises(TooLittleHistory, match="no customers"):
        History.of(nobody, nobody, nobody)
    with pytest.raises(TooLittleHistory, match="too few"):
        GammaGamma.fit(np.array([0.0, 1.0]), np.array([0.0, 5.0]))
    # nobody ever came back: any rate that is low enough explains it
    with pytest.raises(ModelError, match="BG/NBD"):
        BgNbd.fit(History.of(np.zeros(50), np.zeros(50), np.arange(1.0, 51.0)))


def test_without_purchases_the_mean_of_all_is_expected() -> None:
    model = GammaGamma(6.25, 3.74, 15.44)
    found = model.expected(np.array([0.0, 1.0, 400.0]), np.array([0.0, 20.0, 20.0]))
    assert found[0] == pytest.approx(6.25 * 15.44 / 2.74)
    assert found[1] == pytest.approx(6.25 * (15.44 + 20) / (6.25 + 2.74))
    assert found[2] == pytest.approx(20, rel=0.01)
    assert np.isnan(GammaGamma(6.25, 0.9, 15.44).expected(np.zeros(1), np.zeros(1)))[0]
