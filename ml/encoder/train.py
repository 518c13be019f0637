"""The whole fine-tuning, top to bottom: settings, loop, early stop, checkpoint, result.

Each item is drawn to those that the same shoppers met or bought next, and away from the other items
of its batch and from one whose text is near but that nobody met with it (InfoNCE). The same
lessons, settings and seed give the same weights on one machine's CPU, also when the run was killed
on the way and resumed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ml import ModelError, TooLittleHistory, parallel
from ml import checkpoint as checkpoints
from ml.device import device
from ml.encoder.model import Encoder
from ml.encoder.pairs import Lessons, hard_negatives, recall
from ml.metrics import Estimate, mean_with_interval
from ml.text import DEFAULT_ENCODER

_log = logging.getLogger(__name__)

FULL, LAST_LAYERS = "full", "last_layers"


@dataclass(frozen=True)
class Config:
    """Every setting of a fine-tuning."""

    seed: int = 0
    encoder: str = DEFAULT_ENCODER
    mode: str = LAST_LAYERS
    """full: every weight, for a GPU; last_layers: what a CPU can"""
    last_layers: int = 2
    max_steps: int = 400
    batch_size: int = 128
    """pairs"""
    learning_rate: float = 1e-4
    weight_decay: float = 0.01
    warmup: float = 0.1
    """share of the steps in which the learning rate rises"""
    temperature: float = 0.05
    hard_negatives: int = 10
    """near items that are drawn from, one a pair and step; 0: none"""
    reach: int = 3
    """items before the next one that are paired with it"""
    window_days: int = 28
    clip: float = 1.0
    """largest norm of the gradient"""
    max_tokens: int = 64
    max_kept: int = 1 << 30
    """bytes of the frozen layers' results that may be kept"""
    judge_every: int = 40
    """steps between two looks at the spared shoppers; a checkpoint is written at each"""
    patience: int = 4
    """looks without a gain after which it stops"""

    def check(self) -> None:
        """Raises ModelError for settings that cannot work together."""
        if self.mode not in (FULL, LAST_LAYERS):
            raise ModelError(f"mode must be {FULL} or {LAST_LAYERS}, not {self.mode}")
        for name in ("last_layers", "max_steps", "reach", "window_days", "judge_every", "patience"):
            if getattr(self, name) < 1:
                raise ModelError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.batch_size < 2:
            raise ModelError("batch_size must be at least 2: a pair learns from the others'")
        if self.temperature <= 0:
            raise ModelError(f"temperature must be above 0, not {self.temperature}")


@dataclass
class Curves:
    """At each look; JSON-able with `asdict`."""

    steps: list[int] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    """mean over the steps since the look before"""
    recall: list[float] = field(default_factory=list)
    """recall@10 of the next item, of the shoppers who say when to stop"""


@dataclass(frozen=True)
class Tuned:
    """A fine-tuned encoder (its best look), and what it gained."""

    encoder: Encoder
    curves: Curves
    frozen: float
    """recall@10 of the shoppers who judge, by the encoder as it came"""
    tuned: float
    gain: Estimate
    """tuned - frozen, over the same shoppers"""

    @property
    def pays(self) -> bool:
        """Whether the gain is more than chance: its 95 % interval lies above 0."""
        return bool(self.gain.low > 0)


def fine_tune(
    texts: list[str],
    lessons: Lessons,
    config: Config,
    checkpoint: Path | None = None,
    log: Callable[[str], object] = _log.info,
) -> Tuned:
    """Fine-tune the encoder; raises ModelError when there is nothing to learn or it diverges.

    `texts` by item number, "" for an item without one. With `checkpoint` the state is kept in that
    file; a file that is there is resumed from, one of other settings is refused, a damaged one is
    told of and passed over. Under torchrun every process calls this alike (`ml.parallel`).
    """
    config.check()
    for who, pairs in (("to learn from", lessons.learn), ("to judge by", lessons.judge)):
        if not len(pairs.user):
            raise TooLittleHistory(f"no shopper's next item is there {who}: the encoder stays")
    at = device()
    torch.use_deterministic_algorithms(at.type == "cpu")
    torch.utils.deterministic.fill_uninitialized_memory = False  # nothing reads it before writing
    layers = None if config.mode == FULL else config.last_layers
    encoder = Encoder(config.encoder, texts, layers, config.max_tokens, config.max_kept, at)
    there = np.array([bool(text) for text in texts])
    start = encoder.all_vectors() * there[:, None]
    near = hard_negatives(start, lessons.learn, config.hard_negatives)
    frozen = recall(start, lessons.judge)

    parameters = list(encoder.weights.values())
    optimiser = _optimiser(parameters, config)
    step, curves, best = _restore(checkpoint, encoder, optimiser, config)
    floor = float(recall(start, lessons.stop).mean()) if len(lessons.stop.user) else 0.0
    log(
        f"fine-tuning {config.encoder} ({config.mode}) on {len(lessons.learn.user):,} pairs from "
        f"step {step} on {at}; recall@10 of the next item before: {floor:.4f}"
    )
    chance = torch.from_numpy(lessons.log_chance).to(at)
    losses: list[Tensor] = []
    for batch in _batches(lessons, near, config, step):
        if step == config.max_steps or _tired(curves.recall, config.patience):
            break
        for group in optimiser.param_groups:
            group["lr"] = config.learning_rate * _schedule(step, config)
        loss = loss_of(encoder, *batch, chance, config.temperature)
        optimiser.zero_grad()
        loss.backward()
        parallel.sum_gradients(parameters)
        torch.nn.utils.clip_grad_norm_(parameters, config.clip)
        optimiser.step()
        losses.append(loss.detach())
        step += 1
        if step % config.judge_every == 0 or step == config.max_steps:
            curves.steps.append(step)
            curves.loss.append(_mean(losses, step, config))
            curves.recall.append(_look(encoder, lessons, there))
            losses.clear()
            log(
                f"step {step} of {config.max_steps}: loss {curves.loss[-1]:.4f}, "
                f"recall@10 {curves.recall[-1]:.4f}"
            )
            if curves.recall[-1] >= max(curves.recall):
                best = encoder.state()
            if checkpoint and parallel.is_first():
                _save(checkpoint, encoder, optimiser, config, step, curves, best)
    encoder.set_state(best)
    tuned = recall(encoder.all_vectors() * there[:, None], lessons.judge)
    return Tuned(
        encoder,
        curves,
        float(frozen.mean()),
        float(tuned.mean()),
        mean_with_interval(tuned - frozen),
    )


def loss_of(
    encoder: Encoder,
    past: Tensor,
    following: Tensor,
    near: Tensor,
    log_chance: Tensor,
    temperature: float,
) -> Tensor:
    """Mean of -log softmax of the next item among the batch's next items and one near item.

    past, following, near: int64 [n] item numbers; near is -1 where there is none. Texts of a batch
    are encoded once each; every process encodes its share.
    """
    wanted, where = torch.unique(
        torch.cat([past, following, near.clamp(min=0)]), return_inverse=True
    )
    vectors = parallel.gather(encoder.vectors(parallel.share(wanted)), len(wanted))
    a, b, c = vectors[where.to(vectors.device)].chunk(3)
    at = vectors.device
    past, following, near = past.to(at), following.to(at), near.to(at)
    among = a @ b.T / temperature - log_chance[following]
    # another pair of the same next item is no wrong answer, and the past item none at all
    own = torch.eye(len(past), dtype=torch.bool, device=at)
    same = (following[None] == following[:, None]) | (following[None] == past[:, None])
    among = among.masked_fill(same & ~own, -torch.inf)
    hard = ((a * c).sum(1) / temperature).masked_fill(near < 0, -torch.inf)
    scores = torch.cat([among, hard[:, None]], 1)
    return F.cross_entropy(scores, torch.arange(len(past), device=at))


def _batches(
    lessons: Lessons, near: np.ndarray, config: Config, step: int
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """The batches from `step` on, without end: they depend on the seed and their number alone."""
    pairs = lessons.learn
    size = min(config.batch_size, len(pairs.user))
    per_epoch = len(pairs.user) // size
    while True:
        epoch, done = divmod(step, per_epoch)
        rng = np.random.default_rng([config.seed, epoch])
        order = rng.permutation(len(pairs.user))
        drawn = rng.integers(0, max(1, config.hard_negatives), len(pairs.user))
        for number in range(done, per_epoch):
            rows = order[number * size : (number + 1) * size]
            past = pairs.past[rows]
            hard = near[past, drawn[rows]] if config.hard_negatives else np.full(size, -1)
            yield tuple(map(torch.from_numpy, (past, pairs.next[rows], hard)))  # type: ignore[misc]
            step += 1


def _look(encoder: Encoder, lessons: Lessons, there: np.ndarray) -> float:
    """Recall@10 of the shoppers who say when to stop; 0 in a shop without any."""
    if not len(lessons.stop.user):
        return 0.0
    return float(recall(encoder.all_vectors() * there[:, None], lessons.stop).mean())


def _tired(recalls: list[float], patience: int) -> bool:
    """Whether the last looks brought nothing new."""
    return len(recalls) > patience and max(recalls[-patience:]) <= max(recalls[:-patience])


def _mean(losses: list[Tensor], step: int, config: Config) -> float:
    """The mean loss of the last steps; raises ModelError when the training has diverged."""
    mean = torch.stack(losses).mean().item()
    if not np.isfinite(mean):
        calmer = "last_layers, or to frozen" if config.mode == FULL else "frozen"
        raise ModelError(
            f"fine-tuning the text encoder diverged before step {step}: the loss is {mean}; set "
            f"fine_tune.mode in shop.yml to {calmer}"
        )
    return mean


def _schedule(step: int, config: Config) -> float:
    """Share of the learning rate: a linear rise, then a cosine down to nothing."""
    rise = max(1, int(config.max_steps * config.warmup))
    if step < rise:
        return (step + 1) / rise
    rest = max(1, config.max_steps - rise)
    return 0.5 * (1 + float(np.cos(np.pi * (step - rise) / rest)))


def _optimiser(parameters: list[Tensor], config: Config) -> torch.optim.Optimizer:
    """AdamW; biases and norms are not decayed."""
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate)


def _restore(
    path: Path | None, encoder: Encoder, optimiser: torch.optim.Optimizer, config: Config
) -> tuple[int, Curves, dict[str, Tensor]]:
    """Put encoder and optimiser where the checkpoint left them; a fresh start without a file."""
    state = checkpoints.load(path, asdict(config))
    if state is None:
        return 0, Curves(), encoder.state()
    encoder.set_state(state["weights"])
    optimiser.load_state_dict(state["optimiser"])
    return state["step"], Curves(**state["curves"]), state["best"]


def _save(
    path: Path,
    encoder: Encoder,
    optimiser: torch.optim.Optimizer,
    config: Config,
    step: int,
    curves: Curves,
    best: dict[str, Tensor],
) -> None:
    """Keep where the training stands."""
    state = {
        "config": asdict(config),
        "weights": encoder.state(),
        "optimiser": optimiser.state_dict(),
        "step": step,
        "curves": asdict(curves),
        "best": best,
    }
    checkpoints.save(path, state)
