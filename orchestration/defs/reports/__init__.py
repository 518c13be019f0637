"""What a person gets: the published marts and the report."""

from orchestration.defs.reports.assets import assets

__all__ = ["assets"]
