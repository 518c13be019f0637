"""What does a person read in the morning? One self-contained HTML page a night.

`queries` turns the published marts into small Arrow tables, `plots` turns those into figures,
`sections` and `quality` say what each means and how many it rests on, `build` writes the page.
Reads only the published `marts.duckdb`; imports `core` and nothing else of ours.
"""
