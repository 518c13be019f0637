"""Training, promotion and scoring: what is learned?"""

from orchestration.defs.models.assets import assets
from orchestration.defs.models.search import search_job
from orchestration.defs.models.value import predictions

__all__ = ["assets", "predictions", "search_job"]
