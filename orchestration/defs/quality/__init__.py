"""The audit as asset checks: is it fit to publish?"""

from orchestration.defs.quality.checks import checks

__all__ = ["checks"]
