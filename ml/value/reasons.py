"""Why a user is foretold this: the features that move it most, in words."""

from __future__ import annotations

import re

import numpy as np
import pyarrow as pa

from ml.value.history import Array

MOST = 3
_SMALL = 0.05
"""of all that moves a prediction: what adds less is no reason"""
_WINDOW = re.compile(r"^(?P<name>.+)_(?P<days>\d+)d$")
_NOUNS = {
    "items_carted": "items put in the cart", "items_uncarted": "items taken out of the cart",
    "cart_adds": "cart additions", "cart_removes": "cart removals", "purchases": "lines bought",
    "exposures": "lists shown", "sessions": "visits", "order_days": "days with an order",
    "amount": "spent", "depth": "views a visit", "page_dwell_seconds": "seconds on a page",
    "session_dwell_seconds": "seconds in a visit", "largest_order_amount": "largest order",
    "longest_gap_days": "longest days between orders",
    "orders_year_ago": "orders a year ago in the season ahead",
    "amount_year_ago": "spent a year ago in the season ahead",
}  # fmt: skip
_WORDS = {
    "tenure_days": "days since the first visit: {}",
    "days_since_last_event": "days since the last visit: {}",
    "activity": "days since the last visit: {inverse}",
    "active_days": "active days, ever: {}",
    "orders": "orders, ever: {}",
    "days_since_first_order": "days since the first order: {}",
    "days_since_last_order": "days since the last order: {}",
    "orders_per_day": "orders a month since the first: {per_month}",
    "amount_per_day": "spent a month since the first order: {per_month}",
    "days_between_orders": "days between orders: {}",
    "days_between_orders_rms": "days between orders, long ones weighing more: {}",
    "basket_units": "pieces an order: {}",
    "basket_items": "items an order: {}",
    "order_value": "mean order: {}",
    "price_level": "mean price of a piece: {}",
    "refund_ratio": "share of the money sent back: {percent}",
    "faded_orders": "orders, older ones counting less: {}",
    "faded_amount": "spent, older orders counting less: {}",
    "last_order_amount": "last order: {}",
    "last_gap_days": "days between the last two orders: {}",
    "expected_purchases": "orders to expect by the rhythm so far: {}",
    "p_alive": "still a customer by the rhythm so far: {percent}",
    "expected_spend": "to expect by the rhythm so far: {}",
}
_SHARES = {
    "night_share": "events at night", "morning_share": "events in the morning",
    "afternoon_share": "events in the afternoon", "evening_share": "events in the evening",
    "weekend_share": "events on weekends",
}  # fmt: skip
_SAME = {
    "activity": "days_since_last_event", "tenure_days": "days_since_first_order",
    "orders_per_day": "orders", "faded_orders": "orders", "expected_purchases": "orders",
    "order_days": "orders", "purchases": "orders", "items_bought": "orders",
    "amount_per_day": "amount", "faded_amount": "amount", "expected_spend": "amount",
    "largest_order_amount": "order_value", "last_order_amount": "order_value",
    "items_viewed": "views", "active_days": "sessions",
    "days_between_orders_rms": "days_between_orders", "last_gap_days": "days_between_orders",
    "longest_gap_days": "days_between_orders", "session_dwell_seconds": "page_dwell_seconds",
}  # fmt: skip
"""What says much the same as another feature is one reason with it."""
_HABIT = re.compile(r"^(hour|weekday)_(sin|cos)$")
TASTE = "taste_"


def family(feature: str) -> str:
    """Features that say the same thing over other windows are one reason."""
    window = _WINDOW.match(feature)
    name = window["name"] if window else feature
    if name.startswith(TASTE):
        return TASTE
    habit = _HABIT.match(name)
    return habit[1] if habit else _SAME.get(name, name)


def words(feature: str) -> str:
    """A feature, with where its value goes: `{}`, `{percent}`, `{per_month}` or `{inverse}`."""
    if feature in _WORDS:
        return _WORDS[feature]
    if feature.startswith(TASTE):
        return "taste, as the recommender reads it"
    window = _WINDOW.match(feature)
    name = window["name"] if window else feature
    days = f", last {window['days']} days" if window else ""
    if name in _SHARES:
        return f"share of {_SHARES[name]}{days}: {{percent}}"
    if habit := _HABIT.match(name):
        return f"habits of the {'day' if habit[1] == 'hour' else 'week'}{days}"
    if name.endswith("year_ago") and window:
        days = f", {window['days']} days"
    return f"{_NOUNS.get(name, name.replace('_', ' '))}{days}: {{}}"


def reasons(features: tuple[str, ...], x: np.ndarray, contributions: Array) -> pa.Array:
    """[n] up to three texts each, strongest first: '+' raises what is foretold, '-' lowers it.

    Of features of one family the strongest speaks, with the sign of the family's sum.
    """
    families = sorted({family(name) for name in features})
    member = np.array([families.index(family(name)) for name in features])
    joined = np.zeros((len(x), len(families)))
    speaker = np.zeros((len(x), len(families)), np.int64)
    for i in range(len(families)):
        own = np.flatnonzero(member == i)
        joined[:, i] = contributions[:, own].sum(1)
        speaker[:, i] = own[np.abs(contributions[:, own]).argmax(1)]
    size = np.abs(joined)
    top = np.argsort(-size, axis=1, kind="stable")[:, :MOST]
    size_top = np.take_along_axis(size, top, 1)
    kept = size_top > np.maximum(_SMALL * size.sum(1, keepdims=True), 1e-12)
    column = np.take_along_axis(speaker, top, 1)
    sign = np.take_along_axis(joined, top, 1) > 0
    return _texts(features, x, column, sign, kept)


def _texts(
    features: tuple[str, ...], x: np.ndarray, column: np.ndarray, sign: np.ndarray, kept: np.ndarray
) -> pa.Array:
    """Each different text is made once: [n, 3] places in `features` become lists of texts."""
    row = np.broadcast_to(np.arange(len(x))[:, None], column.shape)[kept]
    which, value, up = column[kept], x[row, column[kept]], sign[kept]
    key = np.column_stack([which, np.nan_to_num(_rounded(value), nan=np.inf), up])
    distinct, place = np.unique(key, axis=0, return_inverse=True)
    made = [_text(features[int(w)], v, bool(u)) for w, v, u in distinct]
    flat = pa.array(made, pa.string()).take(pa.array(place.reshape(-1)))
    ends = np.concatenate([[0], np.cumsum(kept.sum(1))])
    return pa.ListArray.from_arrays(pa.array(ends, pa.int32()), flat)


def _rounded(value: np.ndarray) -> Array:
    """To two digits, large numbers to whole ones: so few texts have to be made."""
    size = np.abs(value.astype(np.float64))
    digits = 1 - np.floor(np.log10(np.where(size > 0, size, 1)))
    step = 10.0 ** -np.where(np.isfinite(digits), np.maximum(digits, 0), 0)
    return np.round(value / step) * step


def _text(feature: str, value: float, up: bool) -> str:
    return ("+ " if up else "- ") + words(feature).format(
        _number(value),
        percent=f"{100 * value:.0f}%" if np.isfinite(value) else _number(value),
        per_month=_number(30.4375 * value),
        inverse=_number(1 / value if value else np.inf),
    )


def _number(value: float) -> str:
    """Few digits; what has no value is none."""
    if not np.isfinite(value):
        return "none"
    return f"{value:,.0f}" if abs(value) >= 10 or value == round(value) else f"{value:.2g}"
