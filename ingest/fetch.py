"""Bring the raw files in: runs `shops/<name>/source.py` where a shop has one."""

from __future__ import annotations

import importlib.util
from datetime import date

from core.paths import Paths
from core.shop import Shop, ShopError


def fetch(shop: Shop, paths: Paths, night: date, scale: str) -> str | None:
    """Bring the raw files up to and including `night`; a one-line summary, or None.

    A raw folder that is a symbolic link is the user's own data and is left as it is. Without a
    `source.py` the files are expected to lie in `paths.raw` already. Raises ShopError when
    `source.py` has no `fetch`, and passes on the RuntimeError with which it says what to do.
    """
    script = shop.folder / "source.py"
    if paths.raw.is_symlink() or not script.exists():
        return None
    spec = importlib.util.spec_from_file_location(f"shops.{shop.name}.source", script)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "fetch"):
        raise ShopError(f"{script} has no function fetch(raw, night, scale)")
    paths.raw.mkdir(parents=True, exist_ok=True)
    summary: str | None = module.fetch(paths.raw, night, scale)
    return summary
