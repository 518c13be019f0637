"""The offline and online feature store: what may a model know, and when did it know it?"""

from orchestration.defs.features.assets import assets

__all__ = ["assets"]
