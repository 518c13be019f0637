"""Is tonight's data good enough to be seen?

What is checked (`catalogue`), over what (`source`), how (`suites`: Great Expectations, pushed down
into DuckDB), what came out (`results`, `docs`), and what that decides (`publish`).
May import core and ingest.contract.
"""
