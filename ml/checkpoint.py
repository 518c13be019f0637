"""Where a training stands, kept in a file: whole or absent, and as good as absent when damaged."""

from __future__ import annotations

import logging
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

from ml import ModelError

_log = logging.getLogger(__name__)
_DAMAGED = (
    *(zipfile.BadZipFile, pickle.UnpicklingError, EOFError, OSError, RuntimeError),
    *(ValueError, KeyError, TypeError, NotImplementedError),
)
"""What reading a file raises that is cut off or has other bytes in it."""


def save(path: Path, state: dict[str, Any]) -> None:
    """Write the state under another name first, so that a kill leaves the one before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".next")
    torch.save(state, temporary)
    temporary.replace(path)


def load(path: Path | None, config: dict[str, Any]) -> dict[str, Any] | None:
    """The state that `save` kept; None, to start anew, without a file or with a damaged one.

    Raises ModelError for the state of a training with other settings.
    """
    if path is None or not path.exists():
        return None
    try:
        with zipfile.ZipFile(path) as file:
            if file.testzip():  # torch itself does not look at the checksums
                raise ValueError("a checksum is wrong")
        state = torch.load(path, map_location="cpu", weights_only=True)
        if state["config"] == config:
            return dict(state)
    except _DAMAGED as error:
        _log.warning("checkpoint %s is damaged (%s): the training starts anew", path, error)
        return None
    raise ModelError(f"{path} is of a training with other settings: delete it to start anew")
