"""Raw files and the landing: what came in, and does it keep the contract?"""

from orchestration.defs.ingest.assets import assets

__all__ = ["assets"]
