"""Training, promotion and scoring: what is learned?"""

from orchestration.defs.models.assets import assets
from orchestration.defs.models.search import search_job

__all__ = ["assets", "search_job"]
