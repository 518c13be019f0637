"""Loading the heavy libraries of later steps while this process waits for dbt's."""

from __future__ import annotations

import threading
from importlib import import_module

# in the order in which a night needs them; together they take some 10 s of one core
_HEAVY = ("feast", "sentence_transformers", "mlflow.tracking", "matplotlib.figure")


def load_ahead() -> None:
    """Start importing the heavy libraries; a step that needs one sooner waits for it as ever."""
    threading.Thread(target=_load, name="load-ahead", daemon=True).start()


def _load() -> None:
    for name in _HEAVY:
        import_module(name)
