"""Tiny random models, in the shape in which a loaded model comes."""

from types import SimpleNamespace

import torch
from transformers import LlamaConfig, LlamaForCausalLM


def llama(seed=0, vocabulary=6, layers=2, scale=0.4):
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=scale,
        pad_token_id=0,
    )
    torch.manual_seed(seed)
    return SimpleNamespace(module=LlamaForCausalLM(config).eval())
