"""What several domains share: which night a run is about, where assets are, what a person sees."""
