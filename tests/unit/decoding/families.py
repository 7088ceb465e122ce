"""Tiny random models of the families that are served, in shapes that leave no part of them idle."""

from types import SimpleNamespace

import torch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GemmaConfig,
    GemmaForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

VOCABULARY = 50
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 128,
    "initializer_range": 0.3,  # random weights at the default scale make every position alike
    "pad_token_id": 0,
}
FAMILIES = {
    "Llama": (LlamaForCausalLM, LlamaConfig, {}),
    "Qwen2": (
        Qwen2ForCausalLM,
        Qwen2Config,
        {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 1},
    ),
    "Qwen3": (Qwen3ForCausalLM, Qwen3Config, {}),
    "Mistral": (MistralForCausalLM, MistralConfig, {"sliding_window": 9}),
    "Gemma": (GemmaForCausalLM, GemmaConfig, {}),
    "Gemma 2": (Gemma2ForCausalLM, Gemma2Config, {"sliding_window": 9, "attn_logit_softcapping": 2.0}),
    "Gemma 3": (Gemma3ForCausalLM, Gemma3TextConfig, {"sliding_window": 9}),
}
OURS = ["Llama", "Qwen2", "Qwen3", "Mistral"]
"""Families that run by layers of our own."""


def build(model, config, **options):
    torch.manual_seed(1)
    return model(config(**SIZES | options)).eval().requires_grad_(requires_grad=False)


def loaded(family, dtype=torch.float32, **options):
    """A model of a family in the shape in which a loaded one comes."""
    model, config, own = FAMILIES[family]
    return SimpleNamespace(module=build(model, config, **own | options).to(dtype))
