"""May the challenger take over? Only if it is ahead of the champion and every plain baseline.

The primary metric is NDCG@10 on the held-out days; every difference is one over the same users,
with its 95 % interval, so that a reader sees how sure the decision is: a lead whose interval holds
zero may be chance, and the words say so.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ml.metrics import Estimate, mean_with_interval

PRIMARY = "NDCG@10"


@dataclass(frozen=True)
class Decision:
    """Whether to promote, and why, in words."""

    promote: bool
    reasons: list[str]
    differences: dict[str, Estimate]
    """challenger minus rival, mean over users"""

    @property
    def text(self) -> str:
        """The decision as one sentence."""
        head = "promoted" if self.promote else "not promoted"
        return head + ": " + "; ".join(self.reasons)


def decide(challenger: np.ndarray, rivals: dict[str, np.ndarray]) -> Decision:
    """Each array: NDCG@10 per user, all of the same users in the same order.

    The mean must be higher than that of every rival, baselines and champion alike; without users to
    judge on nothing is promoted.
    """
    if not len(challenger):
        return Decision(False, ["nobody has both history and held-out events to judge on"], {})
    differences, reasons, promote = {}, [], True
    for name, values in rivals.items():
        if values.shape != challenger.shape:
            raise ValueError(f"{name} was judged on other users than the challenger")
        diff = mean_with_interval(challenger - values)
        differences[name] = diff
        promote &= diff.value > 0
        reasons.append(
            f"{_standing(diff, name)} on {PRIMARY} "
            f"({challenger.mean():#.3g} against {values.mean():#.3g}, "
            f"difference {diff.value:+#.3g}, 95 % interval {diff.low:+#.3g} to {diff.high:+#.3g})"
        )
    return Decision(promote, reasons, differences)


def _standing(diff: Estimate, name: str) -> str:
    if diff.low > 0:
        return f"beats {name}"
    return f"is ahead of {name}, within chance," if diff.value > 0 else f"does not beat {name}"
