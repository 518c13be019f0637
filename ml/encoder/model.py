"""A sentence-transformers model over texts that stay the same, and the part of it that learns.

Where only the last layers learn, what the layers below make of each text is computed once and kept:
a step then costs the last layers alone, whatever the encoder is.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ml import ModelError
from ml.text import load

_BATCH = 64


class Encoder:
    """Texts by number -> vectors of length 1. No dropout: the same on any number of processes."""

    def __init__(
        self,
        name: str,
        texts: list[str],
        last_layers: int | None,
        max_tokens: int,
        max_kept: int,
        device: torch.device,
    ) -> None:
        """`last_layers`: how many learn; None: the whole encoder, its word vectors included.

        `max_kept`: bytes that may be kept of the layers below; where it takes more, or where the
        encoder cannot be cut in two, they are computed at every step. Raises ModelError when the
        encoder cannot be loaded.
        """
        self.whole = load(name, device)
        self.device = device
        self.network = self.whole.transformers_model
        self.tokens = _tokens(self.whole, texts, max_tokens)
        self.place, self.stack = _layers(self.network, name)
        total = len(self.stack)
        if last_layers is not None and not 1 <= last_layers <= total:
            raise ModelError(f"{name} has {total} layers: {last_layers} of them cannot learn")
        self.first = 0 if last_layers is None else total - last_layers
        learns = self.network if last_layers is None else nn.ModuleList(self.stack[self.first :])
        for parameter in self.network.parameters():
            parameter.requires_grad_(False)
        self.weights = {
            key: parameter.requires_grad_(True) for key, parameter in learns.named_parameters()
        }
        self.kept: Tensor | None = None
        width = self.network.config.hidden_size
        self.starts = np.concatenate([[0], np.cumsum([len(ids) for ids in self.tokens])])
        if self.first and self.starts[-1] * width * 4 <= max_kept:
            self._keep()

    @property
    def dim(self) -> int:
        """Numbers of a vector."""
        return int(self.whole.get_embedding_dimension() or 0)

    def vectors(self, rows: Tensor) -> Tensor:
        """[n, dim] of the texts of these numbers, float32."""
        hidden = self._below(rows)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            return self._above(hidden, rows)

    @torch.no_grad()
    def all_vectors(self) -> np.ndarray:
        """[texts, dim]; of a batch of similar length each."""
        order = torch.tensor(np.argsort([len(ids) for ids in self.tokens], kind="stable"))
        found = torch.zeros(len(order), self.dim)
        for rows in order.split(_BATCH):
            found[rows] = self.vectors(rows).cpu()
        return found.numpy()

    def state(self) -> dict[str, Tensor]:
        """A copy of what learns."""
        return {key: value.detach().cpu().clone() for key, value in self.weights.items()}

    @torch.no_grad()
    def set_state(self, state: dict[str, Tensor]) -> None:
        """Put back what `state` gave."""
        for key, value in state.items():
            self.weights[key].copy_(value)

    def save(self, folder: Path) -> None:
        """The whole encoder as a sentence-transformers folder."""
        self.whole.to("cpu").save(str(folder), create_model_card=False)
        self.whole.to(self.device)

    def _padded(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Token numbers and attention mask [n, t]."""
        lists = [self.tokens[row] for row in rows.tolist()]
        padded = self.whole.tokenizer.pad({"input_ids": lists}, return_tensors="pt")
        return padded["input_ids"].to(self.device), padded["attention_mask"].to(self.device)

    def _below(self, rows: Tensor) -> Tensor | None:
        """What was kept of the layers below [n, t, width]; None where nothing is."""
        if self.kept is None:
            return None
        parts = [self.kept[self.starts[row] : self.starts[row + 1]] for row in rows.tolist()]
        return nn.utils.rnn.pad_sequence(parts, batch_first=True).to(self.device)

    def _above(self, hidden: Tensor | None, rows: Tensor) -> Tensor:
        ids, mask = self._padded(rows)
        if hidden is None:
            tokens = self.network(input_ids=ids, attention_mask=mask).last_hidden_state
        else:
            with _Cut(self.network, self.place, self.stack[self.first :]):
                tokens = self.network(inputs_embeds=hidden, attention_mask=mask).last_hidden_state
        features = {"token_embeddings": tokens, "attention_mask": mask}
        for module in list(self.whole)[1:]:
            features = module(features)
        return F.normalize(features["sentence_embedding"].float(), dim=1)

    @torch.no_grad()
    def _keep(self) -> None:
        """Compute the layers below once; not for an encoder that gives other vectors when cut."""
        some = torch.arange(min(4, len(self.tokens)))
        whole = self._above(None, some)
        seen: list[Tensor] = []
        cut = self.stack[self.first]
        hook = cut.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
        kept = torch.zeros(int(self.starts[-1]), self.network.config.hidden_size)
        order = torch.tensor(np.argsort([len(ids) for ids in self.tokens], kind="stable"))
        try:
            for rows in order.split(_BATCH):
                ids, mask = self._padded(rows)
                seen.clear()
                self.network(input_ids=ids, attention_mask=mask)
                for row, values in zip(rows.tolist(), seen[0].cpu(), strict=True):
                    start, stop = self.starts[row], self.starts[row + 1]
                    kept[start:stop] = values[: stop - start]
        finally:
            hook.remove()
        self.kept = kept
        try:
            same = torch.allclose(self._above(self._below(some), some), whole, atol=1e-4)
        except (TypeError, ValueError, AttributeError, IndexError):
            same = False
        if not same:
            self.kept = None


class _Cut:
    """For a while the network starts at a later layer, with what is given as its word vectors."""

    def __init__(self, network: nn.Module, place: str, layers: nn.ModuleList) -> None:
        parent, _, self.name = place.rpartition(".")
        self.network, self.parent, self.layers = network, network.get_submodule(parent), layers

    def __enter__(self) -> None:
        self.before = getattr(self.parent, self.name), self.network.embeddings
        setattr(self.parent, self.name, self.layers)
        self.network.embeddings = _Given()

    def __exit__(self, *_: object) -> None:
        setattr(self.parent, self.name, self.before[0])
        self.network.embeddings = self.before[1]


class _Given(nn.Module):
    def forward(self, inputs_embeds: Tensor, **_: object) -> Tensor:
        return inputs_embeds


def _tokens(whole, texts: list[str], max_tokens: int) -> list[list[int]]:  # type: ignore[no-untyped-def]
    """The token numbers of each text, with the encoder's own prompt where it has one."""
    prompt = whole.prompts.get(whole.default_prompt_name or "", "") or ""
    most = min(max_tokens, whole.max_seq_length or max_tokens)
    told = whole.tokenizer([prompt + text for text in texts], truncation=True, max_length=most)
    return list(told["input_ids"])


def _layers(network: nn.Module, name: str) -> tuple[str, nn.ModuleList]:
    """The Transformer's stack of layers and its name in the network."""
    count = getattr(network.config, "num_hidden_layers", None)
    for place, module in network.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return place, module
    raise ModelError(f"the layers of {name} were not found: set fine_tune.mode to frozen")
