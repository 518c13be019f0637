"""Which shop, which night, where on disk, and with how much memory?

Everything every other room needs and nothing more: the typed reading of `shop.yml`, the layout of
`var/<shop>/`, and one way to open DuckDB. Imports no other room.
"""
