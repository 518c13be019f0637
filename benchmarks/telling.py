"""How fast are a million users told what they will do, with reasons, and in how much memory?

A shop is simulated as tables: orders at rates of the users' own, all features of the service
`user_value_v1` (some true, the others noise), events. Models are trained on past moments of some
users, then everybody is told by them: from Arrow tables to the table of predictions, each number of
users in a process of its own. The floor beside it is LightGBM's own prediction by the same trees.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from time import perf_counter

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.lib.page import publish, quiet, table
from ml.value.inputs import Prepared, ValueInputs
from ml.value.model import champion
from ml.value.nightly import train
from ml.value.targets import targets
from ml.value.tell import tell

NIGHT = date(2026, 6, 28)
END = (NIGHT - date(1970, 1, 1)).days + 1
DAYS, ITEMS, EVENTS = 420, 5_000, 5
LEARNERS, MOMENTS = 8_000, 24
CHURN_DAYS = 60
SERVICE = "user_value_v1"


def features() -> list[str]:
    """The names of the service's features."""
    from feature_repo.definitions import user_value_v1

    views = user_value_v1.feature_view_projections
    return [field.name for view in views for field in view.features]


def moments(
    days: list[int], users: int, orders: tuple[np.ndarray, ...], rate: np.ndarray
) -> pa.Table:
    """The features of the first `users` at the beginning of some days."""
    user, day, amount = (each[orders[0] < users] for each in orders)
    rng = np.random.default_rng(5)
    tables = []
    for moment in days:
        before = day < moment
        count = np.bincount(user[before], minlength=users)
        last, first = np.zeros(users), np.full(users, float(moment))
        np.maximum.at(last, user[before], day[before])
        np.minimum.at(first, user[before], day[before])
        paid = np.bincount(user[before], amount[before], users)
        none = count == 0
        known: dict[str, object] = {
            "tenure_days": np.full(users, float(DAYS - (END - moment)), np.float32),
            "days_since_last_event": rng.exponential(1 / (10 * rate[:users])),
            "orders": count,
            "days_since_last_order": pa.array(moment - last, mask=none),
            "days_since_first_order": pa.array(moment - first, mask=none),
            "order_value": pa.array(paid / np.maximum(count, 1), mask=none),
            "amount_per_day": pa.array(paid / np.maximum(moment - first, 1), mask=none),
            "views_28d": rng.poisson(rate[:users] * 280),
        }
        stamp = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(days=moment)
        columns: dict[str, object] = {
            "user_id": names(users),
            "event_timestamp": pa.repeat(pa.scalar(stamp, pa.timestamp("us", tz="UTC")), users),
        }
        for name in features():
            noise = known.get(name)
            columns[name] = rng.standard_normal(users, np.float32) if noise is None else noise
        tables.append(pa.table(columns))
    return pa.concat_tables(tables)


def names(n: int) -> pa.Array:
    """Ids in ascending order."""
    return pa.array(np.char.add("u", np.char.zfill(np.arange(n).astype(str), 9)).astype(object))


def shop(users: int, seed: int) -> ValueInputs:
    """The tables of a night."""
    rng = np.random.default_rng(seed)
    rate = rng.gamma(0.6, 1 / 40, users) + 1e-4
    user = np.repeat(np.arange(users), rng.poisson(rate * DAYS))
    day = END - DAYS + rng.integers(0, DAYS, len(user))
    amount = rng.lognormal(3, 0.6, len(user)).round(2)
    orders = (user, day, amount)
    ids = names(users)
    back = range(MOMENTS * 14, 0, -14)
    trade = np.unique(user * (1 << 20) + day)
    who = np.repeat(np.arange(users), EVENTS)
    at = rng.integers(END - DAYS, END, len(who)).astype("datetime64[D]").astype("datetime64[us]")
    return ValueInputs(
        past=moments([END - each for each in back], min(LEARNERS, users), orders, rate),
        tonight=moments([END], users, orders, rate),
        orders=pa.table(
            {
                "user_id": ids.take(pa.array(user)),
                "order_date": pa.array(day.astype(np.int32), pa.date32()),
                "net_revenue": amount,
            }
        ),
        bought=pa.table(
            {
                "user_id": ids.take(pa.array(trade >> 20)),
                "trade_date": pa.array((trade & ((1 << 20) - 1)).astype(np.int32), pa.date32()),
            }
        ),
        users=pa.table({"user_id": ids, "country": pa.repeat(pa.scalar("DE"), users)}),
        events=pa.table(
            {
                "user_id": ids.take(pa.array(who)),
                "item_id": pa.array([f"i{n}" for n in range(ITEMS)]).take(
                    pa.array((who * 7 + rng.integers(0, 50, len(who))) % ITEMS)
                ),
                "event_type": pa.repeat(pa.scalar("purchase"), len(who)),
                "event_ts": pa.array(at),
            }
        ),
        met=("purchase",),
        wanted=("purchase",),
        night=NIGHT,
        churn_days=CHURN_DAYS,
    )


def one(users: int, seed: int, threads: int) -> dict[str, float]:
    """Tell one shop; seconds and bytes."""
    with tempfile.TemporaryDirectory() as folder:
        models, card = Path(folder), {"feature_service": SERVICE}
        train(shop(LEARNERS, seed), models=models, card=card, seed=seed, threads=threads)
        inputs = shop(users, seed)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        began = perf_counter()
        told = tell(inputs, models=models, feature_service=SERVICE, seed=seed)
        ended = perf_counter()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        pq.write_table(told.predictions, models / "told.parquet")
        written = perf_counter()
        floor = bare(inputs, models)
    return {
        "rows": told.predictions.num_rows,
        "tell": ended - began,
        "write": written - ended,
        "floor": floor,
        "before": before,
        "peak": peak,
        "by_models": sum(each.startswith("val-") for each in told.versions.values()),
    }


def bare(inputs: ValueInputs, models: Path) -> float:
    """Seconds of LightGBM alone, no features made, no reasons: on 100,000 users, times as many."""
    data = Prepared.of(inputs)
    some = data.now.where(slice(0, 100_000))
    seconds = 0.0
    for target in targets(CHURN_DAYS):
        model = champion(models, target, NIGHT, SERVICE)
        if model:
            x = model.read(target, some, data)
            began = perf_counter()
            model.head.tell(x)
            share = (data.now.column("orders") > 0).mean() if target.of_customers else 1.0
            seconds += (perf_counter() - began) * len(data.now.user) * share / len(some.user)
    return seconds


def main() -> None:
    """Measure and show."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, nargs="+", default=[250_000, 1_000_000])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2, help="of LightGBM's training")
    parser.add_argument("--only", type=int, help="print the figures of so many users as JSON")
    parser.add_argument("--write", action="store_true", help="keep the page in results/")
    asked = parser.parse_args()
    quiet()
    if asked.only:
        print(json.dumps(one(asked.only, asked.seed, asked.threads)))
        return
    rows = []
    for users in asked.users:
        command = [sys.executable, __file__, "--only", str(users), "--seed", str(asked.seed)]
        command += ["--threads", str(asked.threads)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(done.stderr)
        found = json.loads(done.stdout.splitlines()[-1])
        rows.append(
            [
                f"{users:,}",
                f"{found['rows']:,}",
                f"{found['by_models']:.0f}",
                f"{found['tell']:.0f}",
                f"{users / found['tell']:,.0f}",
                f"{found['rows'] / found['tell']:,.0f}",
                f"{found['write']:.1f}",
                f"{found['floor']:.0f}",
                f"{found['tell'] / found['floor']:.1f}",
                f"{found['before'] / 2**30:.1f}",
                f"{found['peak'] / 2**30:.1f}",
            ]
        )
    head = ["users", "predictions", "targets by trees", "tell, s", "users/s", "predictions/s",
            "write, s", "floor, s", "tell / floor", "GB before", "GB at most"]  # fmt: skip
    parts = [
        f"{len(features())} features a user at the night's end, seven targets, the three strongest "
        "reasons of each by Shapley values of the trees. Targets without trees are told by BG/NBD, "
        f"which is fitted on the way. Seed {asked.seed}. The floor is LightGBM's prediction alone, "
        "of the same users by the same trees. `GB before` holds the simulated tables.",
        table(head, rows),
    ]
    publish("A million users told", parts, ["lightgbm", "numpy", "torch"], asked.write)


if __name__ == "__main__":
    main()
