"""Which past events put the items on a shopper's list: `python -m orchestration why`."""

from __future__ import annotations

from math import exp

from core.duck import connect
from core.paths import Paths
from core.shop import ShopError, load_shop
from orchestration.lib.night import Night

_PLACES = 5


def why(name: str, user: str) -> None:
    """Print, for the first items of a shopper's published list, the events that carry them.

    Raises ShopError when nothing is published, or not for this shopper, or not by a model.
    """
    from ml.nightly import champion_service, ranker
    from ml.why import explain
    from orchestration.lib.inputs import night_inputs

    shop, paths = load_shop(name), Paths(name)
    if not paths.marts.exists():
        raise ShopError(f"{name} has published no lists yet: run a night first")
    with connect(paths.marts, read_only=True) as marts:
        listed = marts.execute(
            "SELECT night, item_id FROM marts.recommendations "
            "WHERE user_id = $1 AND rank <= $2 ORDER BY rank",
            [user, _PLACES],
        ).fetchall()
    if not listed:
        raise ShopError(f"{user} has no list: give the pseudonym that marts.dim_users has")
    night = Night(shop, paths, listed[0][0])
    service = champion_service(paths.models, night.night)
    if service is None:
        raise ShopError("there is no champion yet: the lists are what is popular")
    by = ranker(night_inputs(night, service), paths.models, service)
    number = by.events.users.index(user).as_py()
    if number < 0 or not (by.data.events.user == number).any():
        raise ShopError(f"{user} has done nothing the model reads: the list is what is popular")
    items = [by.events.items.index(item).as_py() for _, item in listed]
    print(f"{'item':16}  {'because of':16}  {'event':10}  {'day':10}  without it, times as likely")
    for row in explain(by, number, items).to_pylist():
        print(
            f"{row['item_id']:16}  {row['because']:16}  {row['event_type']:10}  {row['day']:10}  "
            f"{exp(-row['fall']):.2f}"
        )
