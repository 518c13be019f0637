"""Whom do we talk to, and did it help?

A campaign is one file of `shops/<shop>/campaigns/`: who (a SELECT over the marts), what, and which
share is left out by lot. `spec` reads the files, `who` runs their SELECTs where these can do no
harm, `audience` chooses and keeps tonight's users, `results` holds what they did against what those
left out did. Plain functions over DuckDB; never Dagster.
"""


class CampaignError(ValueError):
    """A campaign that cannot be run as it is written; the message names the file and what to do."""
