"""The fused recommender: a causal Transformer over what a shopper did, ids and texts together.

`data` turns events into examples, `model` is the network, `train` the whole training from top to
bottom, `rank` what comes out, `files` the network on disk.
"""
