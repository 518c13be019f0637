"""Who must be forgotten, and how long is anything kept?

Erasing a person from every file, proving it by a search, retention periods and the rotation of the
pseudonyms' key. `python -m privacy` is the command line; docs/privacy.md has the data map.
"""


class PrivacyError(RuntimeError):
    """What was asked could not be done in full; the message names the file and what to do."""


class NobodyFound(PrivacyError):
    """The id is in no raw file and nowhere under `var/`; nothing was changed."""
