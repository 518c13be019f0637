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
    judged = {}
    for name, values in rivals.items():
        if values.shape != challenger.shape:
            raise ValueError(f"{name} was judged on other users than the challenger")
        judged[name] = float(values.mean()), mean_with_interval(challenger - values)
    return settle(PRIMARY, float(challenger.mean()), judged)


def settle(primary: str, own: float, rivals: dict[str, tuple[float, Estimate]]) -> Decision:
    """From the challenger's primary metric, and each rival's with the challenger's lead over it."""
    differences, reasons, promote = {}, [], True
    for name, (value, diff) in rivals.items():
        differences[name] = diff
        promote &= diff.value > 0
        reasons.append(
            f"{_standing(diff, name)} on {primary} ({own:#.3g} against {value:#.3g}, "
            f"difference {diff.value:+#.3g}, 95 % interval {diff.low:+#.3g} to {diff.high:+#.3g})"
        )
    return Decision(promote, reasons, differences)


def _standing(diff: Estimate, name: str) -> str:
    if diff.low > 0:
        return f"beats {name}"
    return f"is ahead of {name}, within chance," if diff.value > 0 else f"does not beat {name}"
