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
from ml.recommender.data import Examples, ItemFacts, epoch
from ml.recommender.loss import cross_entropy
from ml.recommender.model import Batch, Recommender, Shape

_log = logging.getLogger(__name__)


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
    id_dropout: float = 0.2
    """share of items that are known by their text alone in a step"""
    batch_size: int = 128
    """windows of up to `max_length` events"""
    learning_rate: float = 6e-3
    weight_decay: float = 0.05
    warmup: float = 0.1
    """share of the steps in which the learning rate rises"""
    clip: float = 1.0
    """largest norm of the gradient"""
    max_scores: int = 1 << 25
    """scores (moments x items) in memory at once; beyond it the loss is computed in pieces"""
    checkpoint_every: int = 200
    log_every: int = 25

    def check(self) -> None:
        """Raises ModelError for settings that cannot work together."""
        if self.dim % self.heads:
            raise ModelError(f"dim {self.dim} cannot be split among {self.heads} heads")
        for name in ("max_steps", "max_epochs", "layers", "heads", "batch_size", "log_every"):
            if getattr(self, name) < 1:
                raise ModelError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.max_length < 2:
            raise ModelError("max_length must be at least 2: one event is no sequence")
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


@dataclass
class Progress:
    """Where a training stands: all that a resumed run needs besides weights and optimiser."""

    step: int = 0
    epoch: int = 0
    batch: int = 0
    """batches of this epoch that are done"""
    pending: list[float] = field(default_factory=list)
    """losses since the last entry of the curves"""


def train(
    data: Examples,
    facts: ItemFacts,
    config: Config,
    checkpoint: Path | None = None,
    log: Callable[[str], object] = _log.info,
) -> Trained:
    """Train on the examples; raises ModelError when there is nothing to learn or it diverges.

    With `checkpoint` the state is kept in that file every `checkpoint_every` steps; a file that is
    there already is resumed from, one of other settings is refused.
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
    torch.manual_seed(config.seed)
    model = build(data, facts, config).to(target)
    optimiser = _optimiser(model, config)
    now, curves = _restore(checkpoint, model, optimiser, config)
    log(f"training {total} steps ({per_epoch} an epoch) from step {now.step} on {target}")

    while now.step < total:
        batches = islice(_batches(data, facts, config, now.epoch), now.batch, None)
        for batch, truth, weight in batches:
            for group in optimiser.param_groups:
                group["lr"] = config.learning_rate * _schedule(now.step, total, config.warmup)
            # Dropout depends on the step alone, so that a resumed run draws the same.
            torch.manual_seed((config.seed << 32) + now.step)
            model.train()
            with torch.autocast(target.type, torch.bfloat16, enabled=target.type == "cuda"):
                loss = loss_of(model, batch.to(target), truth.to(target), weight.to(target), config)
            if not torch.isfinite(loss):
                raise ModelError(
                    f"training diverged at step {now.step}: the loss is {loss.item()}; lower "
                    f"learning_rate (now {config.learning_rate}) or look for NaN in item features"
                )
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip)
            optimiser.step()

            now.step, now.batch = now.step + 1, now.batch + 1
            now.pending.append(loss.item())
            if now.step % config.log_every == 0 or now.step == total:
                curves.steps.append(now.step)
                curves.loss.append(sum(now.pending) / len(now.pending))
                curves.valid_loss.extend(_validate(model, data, facts, config))
                now.pending.clear()
                log(f"step {now.step} of {total}: loss {curves.loss[-1]:.4f}")
            if now.step == total:
                break
            if checkpoint and now.step % config.checkpoint_every == 0:
                _save(checkpoint, model, optimiser, config, now, curves)
        else:
            now.epoch, now.batch = now.epoch + 1, 0

    _forget_unmet(model, data)
    return Trained(model.eval().cpu(), curves)


def device() -> torch.device:
    """CUDA when there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def build(data: Examples, facts: ItemFacts, config: Config) -> Recommender:
    """A fresh network of the right shape for these items."""
    shape = Shape(
        n_items=len(data.events.items),
        n_kinds=len(data.events.kinds),
        text_dim=facts.text.shape[1],
        n_stats=facts.stats.shape[2],
        max_length=config.max_length,
        dim=config.dim,
        layers=config.layers,
        heads=config.heads,
        dropout=config.dropout,
    )
    tensors = (torch.from_numpy(x) for x in (facts.text, facts.stats, facts.first_day))
    return Recommender(shape, *tensors)


def loss_of(
    model: Recommender, batch: Batch, truth: torch.Tensor, weight: torch.Tensor, config: Config
) -> torch.Tensor:
    """Cross-entropy of the softmax over all items: mean over a moment's truths, then moments."""
    items = model.item_vectors(config.id_dropout if model.training else 0.0)
    scoring = model.scoring(batch, model.encode(batch, items), items)
    return cross_entropy(scoring, truth, weight, config.max_scores, precision(items.device))


def precision(at: torch.device) -> torch.dtype:
    """What the largest product is computed in: bfloat16 where the processor multiplies in it."""
    fast = at.type == "cuda" or torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.bfloat16 if fast else torch.float32


def _batches(
    data: Examples, facts: ItemFacts, config: Config, number: int, valid: bool = False
) -> Iterator[tuple[Batch, torch.Tensor, torch.Tensor]]:
    """The batches of one epoch: they depend on the seed and the epoch's number alone."""
    rng = np.random.default_rng([config.seed, number])
    return epoch(data, facts, config.max_length, config.batch_size, rng, valid)


@torch.no_grad()
def _validate(model: Recommender, data: Examples, facts: ItemFacts, config: Config) -> list[float]:
    """The loss on users who are kept out of training, always the same moments; [] without any."""
    model.eval()
    at = next(model.parameters()).device
    losses = [
        loss_of(model, batch.to(at), truth.to(at), weight.to(at), config).item()
        for batch, truth, weight in _batches(data, facts, config, 0, valid=True)
    ]
    return [sum(losses) / len(losses)] if losses else []


def _optimiser(model: Recommender, config: Config) -> torch.optim.Optimizer:
    """AdamW; biases, norms and the few weights of the prior are not decayed."""
    free = [p for p in model.parameters() if p.ndim < 2 or p is model.prior.weight]
    decayed = [p for p in model.parameters() if not any(p is q for q in free)]
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": free, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.98))


def _schedule(step: int, total: int, warmup: float) -> float:
    """Share of the learning rate: a linear rise, then a cosine down to nothing."""
    rise = max(1, int(total * warmup))
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + float(np.cos(np.pi * (step - rise) / max(1, total - rise))))


def _forget_unmet(model: Recommender, data: Examples) -> None:
    """Zero the id vectors of items nobody met: all they learned is that nobody chose them."""
    met = np.zeros(len(data.events.items), bool)
    met[data.events.item] = True
    met[data.target_item] = True
    with torch.no_grad():
        model.item.weight[torch.from_numpy(~met).to(model.item.weight.device)] = 0


def _restore(
    path: Path | None, model: Recommender, optimiser: torch.optim.Optimizer, config: Config
) -> tuple[Progress, Curves]:
    """Put model and optimiser where the checkpoint left them; a fresh start without a file."""
    if path is None or not path.exists():
        return Progress(), Curves()
    state = torch.load(path, map_location="cpu", weights_only=True)
    if state["config"] != asdict(config):
        raise ModelError(f"{path} is of a training with other settings: delete it to start anew")
    model.load_state_dict(state["model"])
    optimiser.load_state_dict(state["optimiser"])
    return Progress(**state["progress"]), Curves(**state["curves"])


def _save(
    path: Path,
    model: Recommender,
    optimiser: torch.optim.Optimizer,
    config: Config,
    now: Progress,
    curves: Curves,
) -> None:
    """Write the checkpoint under another name first, so that it is whole or absent."""
    state = {
        "config": asdict(config),
        "model": model.state_dict(),
        "optimiser": optimiser.state_dict(),
        "progress": asdict(now),
        "curves": asdict(curves),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".next")
    torch.save(state, temporary)
    temporary.replace(path)
