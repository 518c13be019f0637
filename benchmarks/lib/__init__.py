"""What the benchmarks share: one night in a process of its own, and the page of results."""
