"""What is foretold of every user, and for whom it means something."""

from __future__ import annotations

from dataclasses import dataclass

PURCHASE, CHURN, REPURCHASE, SPEND = "purchase", "churn", "repurchase", "spend"


@dataclass(frozen=True)
class Target:
    """One thing to foresee over the `days` after a moment.

    purchase: a valid order; churn: none, of a customer; repurchase: one, of a customer; spend: net
    revenue of valid orders. Orders count by their day, net of what was sent back since.
    """

    name: str
    days: int
    is_horizon_fitted: bool = False
    """the days come from the gaps between this shop's orders and move with them"""

    @property
    def is_amount(self) -> bool:
        """An amount in the shop's currency; otherwise a probability."""
        return self.name == SPEND

    @property
    def of_customers(self) -> bool:
        """Only users with an order can churn or buy again."""
        return self.name in (CHURN, REPURCHASE)

    @property
    def label(self) -> str:
        """For people."""
        return f"{self.name} in {self.days} days"

    @property
    def model(self) -> str:
        """The name of its models in the registry."""
        return f"value_{self.name}" + ("" if self.is_horizon_fitted else f"_{self.days}")


def targets(churn_days: int | None) -> list[Target]:
    """All of a night; `churn_days` None: a shop without a gap between orders yet."""
    churn = [Target(CHURN, churn_days, is_horizon_fitted=True)] if churn_days else []
    return [
        Target(PURCHASE, 7),
        Target(PURCHASE, 30),
        *churn,
        Target(REPURCHASE, 90),
        *(Target(SPEND, days) for days in (90, 180, 365)),
    ]
