"""RecTools' SASRec on the events of a file; prints a line of JSON after each epoch.

Runs in the environment of requirements.txt, started by benchmarks/training.py; imports nothing of
ours. The file (npz): `user`, `item`, `day` of all training events, `judged` and `truth`: users and
the item that each took next.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from typing import Any

import numpy as np
import pandas as pd
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import SASRecModel

TOP = 10


def ndcg(model: SASRecModel, data: Dataset, judged: np.ndarray, truth: np.ndarray) -> float:
    """NDCG@10 of one wanted item for each user; what a user has met is not ranked."""
    found = model.recommend(users=judged, dataset=data, k=TOP, filter_viewed=True)
    wanted = pd.DataFrame({Columns.User: judged, Columns.Item: truth})
    hits = found.merge(wanted, on=[Columns.User, Columns.Item])
    return float((1 / np.log2(hits[Columns.Rank] + 1)).sum() / len(judged))


def main(file: str, settings: dict[str, Any]) -> None:
    """Train for `epochs`, one at a time."""
    warnings.simplefilter("ignore")
    arrays = np.load(file)
    events = pd.DataFrame(
        {
            Columns.User: arrays["user"],
            Columns.Item: arrays["item"],
            Columns.Weight: 1.0,
            Columns.Datetime: pd.to_datetime(arrays["day"], unit="D"),
        }
    )
    data = Dataset.construct(events)
    epochs = settings.pop("epochs")
    model = SASRecModel(loss="softmax", recommend_torch_device=None, **settings)
    seconds = 0.0
    for epoch in range(epochs):
        began = time.perf_counter()
        model.fit_partial(data, min_epochs=1, max_epochs=1)
        seconds += time.perf_counter() - began
        reached = ndcg(model, data, arrays["judged"], arrays["truth"])
        print(json.dumps({"epoch": epoch + 1, "seconds": seconds, "ndcg": reached}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]))
