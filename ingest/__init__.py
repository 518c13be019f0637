"""What came in, and does it keep the contract?

Raw files in, landing parquet by day and quarantined rows out. Imports `core` only.
"""
