"""The dbt project as assets: what does the data mean?"""

from orchestration.defs.warehouse.assets import assets

__all__ = ["assets"]
