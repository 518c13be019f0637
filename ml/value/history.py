"""What the models of buying know of each customer, and the checks it must pass."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import cast

import numpy as np
from numpy.typing import NDArray

from ml import ModelError, TooLittleHistory

Array = NDArray[np.float64]


@dataclass(frozen=True)
class History:
    """n customers; times in any unit, the same for all, counted from each one's first purchase."""

    repeats: Array
    """[n] purchases after the first: 0, 1, 2, ..."""
    recency: Array
    """[n] time of the last of them; 0 without one"""
    age: Array
    """[n] time until the end of what was observed"""
    customers: Array
    """[n] how many customers this row stands for"""
    traits: Array
    """[n, k] what else is known of each and does not change with time; k may be 0"""

    @classmethod
    def of(
        cls,
        repeats: Array,
        recency: Array,
        age: Array,
        customers: Array | None = None,
        traits: Array | None = None,
    ) -> History:
        """Checked; raises ModelError when the numbers cannot be those of customers."""
        n = len(repeats)
        made = cls(
            repeats=np.asarray(repeats, np.float64),
            recency=np.asarray(recency, np.float64),
            age=np.asarray(age, np.float64),
            customers=np.asarray(np.ones(n) if customers is None else customers, np.float64),
            traits=np.asarray(np.empty((n, 0)) if traits is None else traits, np.float64),
        )
        made._check()
        return made

    def _check(self) -> None:
        columns = (self.repeats, self.recency, self.age, self.customers)
        shapes = [each.shape for each in columns]
        if len({*shapes}) > 1 or self.repeats.ndim != 1 or len(self.traits) != len(self):
            raise ModelError(f"columns of different lengths: {[*shapes, self.traits.shape]}")
        if not len(self):
            raise TooLittleHistory("no customers: there is nothing to fit or to tell")
        numbers = np.column_stack([*columns, self.traits])
        wrong = {
            "are not numbers": ~np.isfinite(numbers).all(1),
            "have repeats that are no count": (self.repeats < 0) | (self.repeats % 1 != 0),
            "bought last after the end of what was observed": self.recency > self.age,
            "bought last before their first purchase": self.recency < 0,
            "have no repeat, but a time of one": (self.repeats == 0) & (self.recency != 0),
            "have a repeat at the time of their first": (self.repeats > 0) & (self.recency == 0),
            "stand for no customer": self.customers <= 0,
        }
        for what, which in wrong.items():
            if which.any():
                first = int(np.argmax(which))
                raise ModelError(
                    f"{int(which.sum()):,} customers {what}; the first is row {first}: "
                    f"repeats {self.repeats[first]}, recency {self.recency[first]}, "
                    f"age {self.age[first]}"
                )

    def __len__(self) -> int:
        return len(self.repeats)

    def rows(self, which: slice | NDArray[np.int64]) -> History:
        """Some of the rows."""
        return History(*(each[which] for each in vars(self).values()))

    def distinct(self) -> History:
        """Equal rows as one that stands for all of them."""
        first, place = alike(self.repeats, self.recency, self.age, self.traits)
        one = self.rows(first)
        count = np.bincount(place, weights=self.customers).astype(np.float64)
        return replace(one, customers=count)

    def times(self, shifts: tuple[float, ...]) -> Array:
        """[n] exp(traits @ shifts); raises ModelError for another number of traits."""
        if self.traits.shape[1] != len(shifts):
            raise ModelError(
                f"the model was fitted on {len(shifts)} traits, not {self.traits.shape[1]}: "
                "give it the same ones"
            )
        return cast(Array, np.exp(self.traits @ np.array(shifts)))


def alike(*columns: Array) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Groups of equal rows: the first row of each, and for every row the number of its group."""
    rows = np.ascontiguousarray(np.column_stack(columns))
    # one comparison of bytes for each row instead of one for each column
    whole = rows.view(np.dtype((np.void, rows.shape[1] * rows.itemsize)))[:, 0]
    _, first, place = np.unique(whole, return_index=True, return_inverse=True)
    return first, place
