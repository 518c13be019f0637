"""What is learned?

The text encoder, the recommender, the baselines it must beat, and the statistics that decide. Plain
functions over Arrow, NumPy and torch: nothing here knows of the orchestrator or the feature store.
"""


class ModelError(RuntimeError):
    """A model that cannot be trained or used as asked; the message says what to do."""


class TooLittleHistory(ModelError):
    """There is nothing to learn from yet, as in the first nights of a shop."""
