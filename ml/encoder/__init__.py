"""The text encoder, fine-tuned on what shoppers do next.

`pairs` turns events into texts that belong together, `model` is the encoder with the part of it
that learns, `train` the whole training from top to bottom, `nightly` what a night asks for.
"""
