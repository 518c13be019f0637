"""What does a person read in the morning? One self-contained HTML page a night.

`queries`, `expectation` and `changes` turn the published marts into small Arrow tables, `plots`
turns those into figures, `morning`, `sections` and `quality` say what each means and how many it
rests on, `build` writes the page and `entry` keeps the newest one where people look.
Reads only the published `marts.duckdb`; imports `core` and nothing else of ours.
"""
