"""Models of Qwen3's shapes with random weights: as fast as real ones, and nothing to download."""

from __future__ import annotations

from typing import Any

_QWEN3 = {"vocab_size": 151_936, "num_key_value_heads": 8, "head_dim": 128, "tie_word_embeddings": False}
SHAPES: dict[str, dict[str, Any]] = {
    "14b": _QWEN3
    | {
        "hidden_size": 5120,
        "intermediate_size": 17408,
        "num_hidden_layers": 40,
        "num_attention_heads": 40,
    },
    "8b": _QWEN3
    | {
        "hidden_size": 4096,
        "intermediate_size": 12288,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
    },
    "0.6b": _QWEN3
    | {
        "hidden_size": 1024,
        "intermediate_size": 3072,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "tie_word_embeddings": True,
    },
    # For smoke tests where there is no GPU.
    "tiny": {
        "vocab_size": 512,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "tie_word_embeddings": False,
    },
}


def random_module(shape: str, device: str) -> Any:
    """A transformers model in eval mode, bfloat16; the same weights on the same kind of device."""
    # Whoever wants no more than a shape's vocabulary starts in a second without these.
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(max_position_embeddings=40_960, dtype=torch.bfloat16, **SHAPES[shape])
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("meta"):
            module: Any = Qwen3ForCausalLM(config)
    finally:
        torch.set_default_dtype(torch.float32)
    module = module.to_empty(device=device).eval().requires_grad_(requires_grad=False)
    if config.tie_word_embeddings:
        module.tie_weights()
    generator = torch.Generator(device).manual_seed(0)
    for parameter in module.parameters():
        if parameter.dim() > 1:
            parameter.data.normal_(0, 0.02, generator=generator)
        else:
            parameter.data.fill_(1)
    module.model.rotary_emb = type(module.model.rotary_emb)(config).to(device)
    return module
