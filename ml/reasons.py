"""Why an item is on a shopper's list, in words, from what the shopper really did."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from ml.baselines import recent_positions
from ml.recommender.model import Recommender
from ml.rerank import Listed
from ml.sequences import Events

RECENT = 10
"""How many of the last distinct items a reason may refer to."""
_DID = {
    "view": ("you viewed ", ""),
    "click": ("you clicked on ", ""),
    "cart_add": ("you put ", " in your cart"),
    "cart_remove": ("you took ", " out of your cart"),
    "purchase": ("you bought ", ""),
    "refund": ("you returned ", ""),
    "exposure": ("you were shown ", ""),
}
POPULAR = "popular now"
NEW = "new in the shop"
BOUGHT_ONCE = "bought before"
BOUGHT_OFTEN = "often bought again, so far on {} days"


class Reasons:
    """Holds what reasons are made of; `of` words those of some users' lists.

    `inputs` and `targets`: events before the night; `titles`: by item number; `text`: float32
    [items, d], L2-normalised; `model`: whose space says which past item is nearest.
    """

    def __init__(
        self,
        inputs: Events,
        targets: Events,
        titles: pa.Array,
        text: np.ndarray,
        model: Recommender | None,
    ) -> None:
        self.titles = titles
        self.n_items = len(titles)
        self.kinds = inputs.kinds
        self.is_new = np.bincount(inputs.item, minlength=self.n_items) == 0
        self.text = text
        self.space = text
        if model is not None:
            with torch.no_grad():
                vectors = torch.cat(model.item_vectors(), 1)
                self.space = torch.nn.functional.normalize(vectors, dim=1).numpy()

        position = recent_positions(inputs, RECENT)
        user = inputs.user[position]
        place = np.arange(len(user)) - np.searchsorted(user, user)
        self.recent = np.full((len(inputs.users), RECENT), -1, np.int64)
        self.recent[user, place] = inputs.item[position]
        self.did = np.zeros((len(inputs.users), RECENT), np.int64)
        self.did[user, place] = inputs.kind[position]

        bought = targets.of_kinds(["purchase"])
        pair = bought.user * self.n_items + bought.item
        days = np.unique(np.stack([pair, bought.day], 1), axis=0)[:, 0] if len(pair) else pair
        self.bought, self.bought_days = np.unique(days, return_counts=True)

    def of(self, lists: Listed) -> pa.Array:
        """One text per place of the lists, flattened: n * k strings (any text at empty places)."""
        ranked = self._because(lists) if lists.by_model else pa.repeat(POPULAR, lists.ranking.size)
        return pc.if_else(pa.array(lists.explored.reshape(-1)), NEW, ranked)

    def _because(self, lists: Listed) -> pa.Array:
        """What the user did that speaks for each item."""
        item = np.maximum(lists.ranking, 0)
        nearest, kind = self._nearest(lists.users, item)
        days = self._days_bought(lists.users, item)

        said = [_DID.get(name, ("you met ", "")) for name in self.kinds]
        verb = pa.array([before for before, _ in said], pa.string()).take(
            pa.array(kind.reshape(-1))
        )
        after = pa.array([after for _, after in said], pa.string()).take(pa.array(kind.reshape(-1)))
        title = self.titles.take(pa.array(nearest.reshape(-1)))
        same = pa.array((nearest == item).reshape(-1))
        because = pc.binary_join_element_wise(
            "because ", verb, pc.if_else(same, "it", title), after, ""
        )
        new = pc.binary_join_element_wise("new, similar in text to ", title, "")
        flat = pa.array(days.reshape(-1))
        before, after_days = BOUGHT_OFTEN.split("{}")
        often = pc.binary_join_element_wise(before, flat.cast(pa.string()), after_days, "")
        return pc.case_when(
            pc.make_struct(
                pc.greater_equal(flat, 2),
                pc.equal(flat, 1),
                pa.array(self.is_new[item].reshape(-1)),
            ),
            often,
            BOUGHT_ONCE,
            new,
            because,
        )

    def _nearest(self, users: np.ndarray, item: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The user's recent item nearest to each item of the list, and what was done with it."""
        recent = self.recent[users]
        learned = np.einsum("nkd,nrd->nkr", self.space[item], self.space[recent])
        if self.is_new[item].any():
            text = np.einsum("nkd,nrd->nkr", self.text[item], self.text[recent])
            learned = np.where(self.is_new[item][..., None], text, learned)
        learned[np.broadcast_to((recent < 0)[:, None], learned.shape)] = -np.inf
        place = learned.argmax(axis=2)
        return np.take_along_axis(recent, place, 1), np.take_along_axis(self.did[users], place, 1)

    def _days_bought(self, users: np.ndarray, item: np.ndarray) -> np.ndarray:
        """On how many days the user bought each item of the list."""
        key = users[:, None] * self.n_items + item
        if not len(self.bought):
            return np.zeros(key.shape, np.int64)
        at = np.minimum(np.searchsorted(self.bought, key), len(self.bought) - 1)
        return np.where(self.bought[at] == key, self.bought_days[at], 0)
