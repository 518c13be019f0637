"""Training, promotion and scoring: what is learned?"""

from orchestration.defs.models.assets import assets

__all__ = ["assets"]
