"""The whole training, top to bottom: settings, examples, loop, checkpoint, result.

The same examples, settings and seed give the same weights on one machine's CPU, also when the run
was killed on the way and resumed. The number of steps bounds a training, never the clock.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from ml import ModelError, TooLittleHistory
from ml import checkpoint as checkpoints
from ml.device import device
from ml.recommender.data import Examples, ItemFacts, epoch
from ml.recommender.loss import cross_entropy, precision, sample
from ml.recommender.model import Recommender
from ml.recommender.tower import BOTH, IDS, KINDS, Batch, Shape

_log = logging.getLogger(__name__)


_AT_LEAST_ONE = ("max_steps", "max_epochs", "layers", "heads", "batch_size", "log_every")


@dataclass(frozen=True)
class Config:
    """Every setting of a training."""

    seed: int = 0
    max_steps: int = 600
    """optimiser steps; fewer when `max_epochs` are over first"""
    max_epochs: int = 8
    max_length: int = 64
    """events read per user"""
    dim: int = 64
    layers: int = 2
    heads: int = 2
    dropout: float = 0.2
    towers: tuple[str, ...] = (IDS, BOTH)
    """what each of the networks that are asked together knows an item by"""
    id_dropout: float = 0.2
    """share of items that a tower of both knows by their text alone in a step"""
    fade: float = 1.0
    """how much a truth weighs beside one a day earlier"""
    batch_size: int = 128
    """windows of up to `max_length` events"""
    learning_rate: float = 6e-3
    weight_decay: float = 0.05
    warmup: float = 0.1
    """share of the steps in which the learning rate rises"""
    clip: float = 1.0
    """largest norm of the gradient"""
    max_scores: int = 1 << 22
    """scores (moments x items) in memory at once; beyond it the loss is computed in pieces"""
    negatives: int = 2048
    """items besides those of a batch that a step compares the truths with; all, if fewer"""
    checkpoint_every: int = 200
    log_every: int = 25

    def check(self) -> None:
        """Raises ModelError for settings that cannot work together."""
        if self.dim % self.heads:
            raise ModelError(f"dim {self.dim} cannot be split among {self.heads} heads")
        for name in _AT_LEAST_ONE:
            if getattr(self, name) < 1:
                raise ModelError(f"{name} must be at least 1, not {getattr(self, name)}")
        if not self.towers or set(self.towers) - set(KINDS):
            raise ModelError(f"towers must be some of {', '.join(KINDS)}, not {self.towers}")
        if self.max_length < 2:
            raise ModelError("max_length must be at least 2: one event is no sequence")
        if not 0 < self.fade <= 1:
            raise ModelError(f"fade must be in (0, 1], not {self.fade}")
        for name in ("dropout", "id_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ModelError(f"{name} must be in [0, 1), not {getattr(self, name)}")


@dataclass(frozen=True)
class Trained:
    """A trained network on the CPU, and how it got there."""

    model: Recommender
    curves: Curves


@dataclass
class Curves:
    """Loss by optimiser step; JSON-able with `asdict`."""

    steps: list[int] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    """mean over the steps since the entry before"""
    valid_loss: list[float] = field(default_factory=list)
    """of users who are never trained on; empty in a shop too small to have any to spare"""
    judged: list[float] = field(default_factory=list)
    """what the judge said after each epoch; empty without one"""


@dataclass
class Progress:
    """Where a training stands."""

    step: int = 0
    epoch: int = 0
    batch: int = 0
    """batches of this epoch that are done"""
    pending: list[float] = field(default_factory=list)
    """losses since the last entry of the curves"""


@dataclass
class Run:
    """All that a resumed run needs besides weights and optimiser."""

    now: Progress
    curves: Curves
    best: dict[str, torch.Tensor] = field(default_factory=dict)
    """the weights that the judge liked best"""


Judge = Callable[[Recommender], float]
"""How good a network is at something that it was not trained on; higher is better."""


def train(
    data: Examples,
    facts: ItemFacts,
    config: Config,
    checkpoint: Path | None = None,
    log: Callable[[str], object] = _log.info,
    judge: Judge | None = None,
    start: Callable[[Recommender], object] | None = None,
) -> Trained:
    """Train on the examples; raises ModelError when there is nothing to learn or it diverges.

    With `checkpoint` the state is kept in that file every `checkpoint_every` steps; a file that is
    there already is resumed from, one of other settings is refused, a damaged one is told of and
    passed over. With a `judge` the weights after the epoch that it likes best are the result,
    without one the last. `start` is given the fresh network, to begin with other weights
    (`ml.transfer`).
    """
    config.check()
    per_epoch = sum(1 for _ in _batches(data, facts, config, 0))
    if not per_epoch:
        raise TooLittleHistory(
            "nothing to learn from: no target event follows any visit before the cutoff; "
            "check recommender.input_events, target_events and holdout_days in shop.yml"
        )
    total = min(config.max_steps, config.max_epochs * per_epoch)
    target = device()
    # several threads of a CPU would add up the gradients of one item in any order
    torch.use_deterministic_algorithms(target.type == "cpu")
    torch.utils.deterministic.fill_uninitialized_memory = False  # nothing reads it before writing
    torch.manual_seed(config.seed)
    model = build(data, facts, config)
    if start:
        start(model)
    model = model.to(target)
    optimiser = _optimiser(model, config)
    run = _restore(checkpoint, model, optimiser, config)
    now, curves = run.now, run.curves
    log(f"training {total} steps ({per_epoch} an epoch) from step {now.step} on {target}")

    pending = list(torch.tensor(now.pending))  # on the device: asking for a number waits for it
    while now.step < total:
        batches = islice(_batches(data, facts, config, now.epoch), now.batch, None)
        for batch, truth, weight in batches:
            rate = config.learning_rate * _schedule(now.step, total, config.warmup)
            pending.append(_step(model, optimiser, (batch, truth, weight), config, now.step, rate))
            now.step, now.batch = now.step + 1, now.batch + 1
            if now.step % config.log_every == 0 or now.step == total:
                curves.steps.append(now.step)
                curves.loss.append(_mean(pending, now.step, config))
                curves.valid_loss.extend(_validate(model, data, facts, config))
                pending.clear()
                log(f"step {now.step} of {total}: loss {curves.loss[-1]:.4f}")
            if now.step == total:
                break
            if checkpoint and now.step % config.checkpoint_every == 0:
                if pending:
                    _mean(pending, now.step, config)  # what has diverged is not to be resumed
                now.pending = [loss.item() for loss in pending]
                _save(checkpoint, model, optimiser, config, run)
        else:
            now.epoch, now.batch = now.epoch + 1, 0
            if judge and now.step < total:
                _judge(judge, model, run, log)
    if judge:
        _judge(judge, model, run, log)
        model.load_state_dict(run.best)
    model.settle(torch.from_numpy(_met(data)).to(target))
    return Trained(model.eval().cpu(), curves)


def _step(
    model: Recommender,
    optimiser: torch.optim.Optimizer,
    batch: tuple[Batch, torch.Tensor, torch.Tensor],
    config: Config,
    step: int,
    rate: float,
) -> torch.Tensor:
    """One step of the optimiser; the loss before it, on the device."""
    for group in optimiser.param_groups:
        group["lr"] = rate
    events, truth, weight = batch
    # Dropout depends on the step alone, so that a resumed run draws the same.
    torch.manual_seed((config.seed << 32) + step)
    model.train()
    at = next(model.parameters()).device
    with torch.autocast(at.type, torch.bfloat16, enabled=at.type == "cuda"):
        loss = loss_of(model, events.to(at), truth.to(at), weight.to(at), config)
    optimiser.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip)
    optimiser.step()
    return loss.detach() / len(model.towers)


def _mean(losses: list[torch.Tensor], step: int, config: Config) -> float:
    """The mean loss of the last steps; raises ModelError when the training has diverged."""
    mean = torch.stack([loss.cpu() for loss in losses]).mean().item()
    if not np.isfinite(mean):
        raise ModelError(
            f"training diverged before step {step}: the loss is {mean}; lower "
            f"recommender.settings.learning_rate in shop.yml (now {config.learning_rate}), or look "
            "for NaN in item features"
        )
    return mean


def _judge(judge: Judge, model: Recommender, run: Run, log: Callable[[str], object]) -> None:
    """Ask the judge, and keep the weights if they are the best so far."""
    score = judge(model.eval())
    run.curves.judged.append(score)
    log(f"after epoch {len(run.curves.judged)}: judged {score:.4f}")
    if score >= max(run.curves.judged):
        run.best = {name: value.clone() for name, value in model.state_dict().items()}


def build(data: Examples, facts: ItemFacts, config: Config) -> Recommender:
    """A fresh network of the right shape for these items."""
    shape = Shape(
        n_items=len(data.events.items),
        n_kinds=len(data.events.kinds),
        text_dim=facts.text.shape[1] + facts.words.shape[1],
        n_stats=facts.stats.shape[2],
        max_length=config.max_length,
        dim=config.dim,
        layers=config.layers,
        heads=config.heads,
        dropout=config.dropout,
        towers=config.towers,
    )
    model = Recommender(shape, *facts.tensors())
    model.fit_texts()
    return model


def loss_of(
    model: Recommender, batch: Batch, truth: torch.Tensor, weight: torch.Tensor, config: Config
) -> torch.Tensor:
    """Cross-entropy of the softmax over all items: mean over a moment's truths, then moments.

    In training over all items of the batch and a sample of the others (`sample`).

    The towers' are added up: they share no weights, so each learns as if it were alone.
    """
    some = None
    if model.training:
        needed = torch.zeros(model.shape.n_items, dtype=torch.bool, device=truth.device)
        needed[truth] = True
        needed[batch.item] = True
        some = sample(needed, config.negatives)
        truth = some.place[truth]
    items = model.item_vectors(config.id_dropout if model.training else 0.0, some)
    kind = precision(truth.device)
    losses = [
        cross_entropy(scoring, truth, weight, config.max_scores, kind)
        for scoring in model.scorings(batch, items, some)
    ]
    return torch.stack(losses).sum()


def _batches(
    data: Examples, facts: ItemFacts, config: Config, number: int, valid: bool = False
) -> Iterator[tuple[Batch, torch.Tensor, torch.Tensor]]:
    """The batches of one epoch: they depend on the seed and the epoch's number alone."""
    rng = np.random.default_rng([config.seed, number])
    size = (config.max_length, config.batch_size)
    return epoch(data, facts, *size, rng, valid, config.fade)


@torch.no_grad()
def _validate(model: Recommender, data: Examples, facts: ItemFacts, config: Config) -> list[float]:
    """The loss on users who are kept out of training, always the same moments; [] without any."""
    model.eval()
    at = next(model.parameters()).device
    losses = [
        loss_of(model, batch.to(at), truth.to(at), weight.to(at), config).item() / len(model.towers)
        for batch, truth, weight in _batches(data, facts, config, 0, valid=True)
    ]
    return [sum(losses) / len(losses)] if losses else []


def _optimiser(model: Recommender, config: Config) -> torch.optim.Optimizer:
    """AdamW; biases, norms and the few weights of the priors are not decayed."""
    free = [p for n, p in model.named_parameters() if p.ndim < 2 or n.endswith("prior.weight")]
    decayed = [p for p in model.parameters() if not any(p is q for q in free)]
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": free, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.98), fused=True)


def _schedule(step: int, total: int, warmup: float) -> float:
    """Share of the learning rate: a linear rise, then a cosine down to nothing."""
    rise = max(1, int(total * warmup))
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + float(np.cos(np.pi * (step - rise) / max(1, total - rise))))


def _met(data: Examples) -> np.ndarray:
    """Which items anybody met before the cutoff, bool [items]."""
    met = np.zeros(len(data.events.items), bool)
    met[data.events.item] = True
    met[data.target_item] = True
    return met


def _restore(
    path: Path | None, model: Recommender, optimiser: torch.optim.Optimizer, config: Config
) -> Run:
    """Put model and optimiser where the checkpoint left them; a fresh start without a file."""
    state = checkpoints.load(path, asdict(config))
    if state is None:
        return Run(Progress(), Curves())
    model.load_state_dict(state["model"])
    optimiser.load_state_dict(state["optimiser"])
    return Run(Progress(**state["progress"]), Curves(**state["curves"]), state["best"])


def _save(
    path: Path, model: Recommender, optimiser: torch.optim.Optimizer, config: Config, run: Run
) -> None:
    """Keep where the training stands."""
    state = {
        "config": asdict(config),
        "model": model.state_dict(),
        "optimiser": optimiser.state_dict(),
        "progress": asdict(run.now),
        "curves": asdict(run.curves),
        "best": run.best,
    }
    checkpoints.save(path, state)
