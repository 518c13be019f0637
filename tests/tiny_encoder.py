"""A sentence-transformers folder small enough for tests: random weights, 2 layers of 32 numbers."""

from __future__ import annotations

from pathlib import Path


def make(folder: Path, words: list[str]) -> str:
    """Write the encoder, with one token a word; returns the folder's name."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Normalize, Pooling, Transformer
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    vocabulary = {word: number for number, word in enumerate(["[PAD]", "[UNK]", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", model_max_length=16
    )
    torch.manual_seed(0)
    network = BertModel(
        BertConfig(
            vocab_size=len(vocabulary),
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
            max_position_embeddings=16,
        )
    )
    parts = folder / "parts"
    network.save_pretrained(parts)
    fast.save_pretrained(parts)
    first = Transformer(str(parts))
    whole = SentenceTransformer(modules=[first, Pooling(32), Normalize()])
    whole.save(str(folder / "encoder"), create_model_card=False)
    return str(folder / "encoder")
