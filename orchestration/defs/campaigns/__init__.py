"""Whom campaigns choose tonight, and what past ones have achieved."""

from orchestration.defs.campaigns.assets import assets

__all__ = ["assets"]
