"""Who must be forgotten, how long is anything kept, and what may people outside the house see?

Erasing a person from every file, proving it by a search, retention periods, the rotation of the
pseudonyms' key, and aggregates with noise under a privacy budget. `python -m privacy` is the
command line; docs/privacy.md has the data map.
"""


class PrivacyError(RuntimeError):
    """What was asked could not be done in full; the message names the file and what to do."""


class NobodyFound(PrivacyError):
    """The id is in no raw file and nowhere under `var/`; nothing was changed."""
