"""The search for better settings of a shop's recommender: which night, which study, what to say."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from core.paths import Paths
from core.shop import Shop, ShopError

if TYPE_CHECKING:
    from ml.search import Found


def look(
    shop: Shop, night: date, trials: int, seconds: float, log: Callable[[str], object]
) -> tuple[Found, Path]:
    """The best settings for `night`, judged on the days before its held-out ones, and the study.

    Raises ShopError when there is no night to learn from or one is running, ModelError when no
    trial finished.
    """
    from ml.search import PRESENT, SPACE, recommender, search
    from orchestration.lib.inputs import SEED, night_inputs, recommender_service
    from orchestration.lib.night import Night, is_held

    paths = Paths(shop.name)
    earlier = shop.check_night(night - timedelta(days=shop.recommender.holdout_days))
    before = Night(shop, paths, earlier)
    if is_held(paths):
        raise ShopError(f"a night of {shop.name} is running: search when it is over")
    if not paths.warehouse.exists():
        raise ShopError(f"{shop.name} has no night yet: run one first, make run SHOP={shop.name}")
    study = paths.home / "search" / f"recommender-{night}.db"
    found = search(
        recommender(night_inputs(before, recommender_service(before)), SEED),
        SPACE,
        PRESENT | dict(shop.recommender.settings),
        study,
        trials=trials,
        seconds=seconds,
        seed=SEED,
        log=log,
    )
    return found, study


def advice(shop: Shop, found: Found) -> str:
    """What was found, in words and as lines for `shop.yml`."""
    now = "diverged" if found.present is None else f"{found.present:.4f}"
    said = (
        f"NDCG@10 on the days before the held-out ones: {found.value:.4f} at best, {now} with the "
        f"present settings; {found.finished} trials finished, {found.pruned} pruned"
    )
    if found.present is not None and found.value <= found.present:
        return f"{said}\nThe present settings stay."
    lines = "\n".join(f"      {name}: {value:.4g}" for name, value in found.settings.items())
    return (
        f"{said}\nTo use it, in shops/{shop.name}/shop.yml:\n  recommender:\n    settings:\n{lines}"
    )
