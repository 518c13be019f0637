"""What may a model know, and when did it know it?

Feast's entities, feature views and services, the offline store that joins them to a moment, and the
few calls the rest of the platform makes. Imports `core` only.
"""


class FeatureError(RuntimeError):
    """Features that cannot be had as asked; the message says what to do."""
