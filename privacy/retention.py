"""What every night leaves under its date, thrown away when its period has ended.

Rows of the contract's tables and of the quarantine leave with the landing (`ingest.staging`), which
does not read them any more.
"""

from __future__ import annotations

import re
import shutil
from datetime import date, timedelta

from core.paths import Paths
from core.shop import Shop

KINDS = ("nights", "audit", "reports", "recommendations", "predictions", "campaigns")
_DATED = re.compile(r"(\d{4}-\d\d-\d\d)(\.[a-z_]+)?(\.parquet)?")


def expire(shop: Shop, paths: Paths, night: date) -> list[str]:
    """Delete the folders and files of nights that are past their period; their names."""
    gone = []
    for kind in KINDS:
        days = getattr(shop.retention, kind)
        if days is None or not (paths.home / kind).is_dir():
            continue
        first = (night - timedelta(days=days - 1)).isoformat()
        for path in sorted((paths.home / kind).iterdir()):
            dated = _DATED.fullmatch(path.name)
            if dated and dated[1] < first:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
                gone.append(f"{kind}/{path.name}")
    return gone
