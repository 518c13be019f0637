"""When, in what order, and is it good enough to publish?

Dagster assets, checks, schedules and sensors. An asset is thin: it opens what it needs, makes one
call into another room and returns metadata.
"""
