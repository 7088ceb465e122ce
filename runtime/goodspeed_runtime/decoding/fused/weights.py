"""Takes a transformers model apart into the matrices that fused layers multiply by.

Query, key and value projections become one matrix, gate and up another: fewer
and larger products. The module's own parameters become views of them, so no
weight is held twice. Whatever is not exactly Llama's layer (with Qwen's biases and
head norms, Mistral's window) is refused and runs on `packed`'s general path.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from goodspeed_runtime.decoding.kv_cache import LayerShape
from goodspeed_runtime.decoding.packed import attention_of

_FAMILIES = frozenset({"LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"})


class NotFusableError(ValueError):
    """The model is not of a shape that the fused layers compute."""


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """One decoder layer.

    Attributes:
        query_key_value: ``[(heads + 2 * kv heads) * head size, hidden]``.
        query_key_value_bias: ``[(heads + 2 * kv heads) * head size]`` or None.
        output: ``[hidden, heads * head size]``.
        gate_up: ``[2 * intermediate, hidden]``.
        down: ``[hidden, intermediate]``.
        input_norm, post_norm: ``[hidden]``.
        query_norm, key_norm: ``[head size]`` or None.
        window: last positions that a token sees, itself included; None is all.
    """

    query_key_value: Tensor
    query_key_value_bias: Tensor | None
    output: Tensor
    gate_up: Tensor
    down: Tensor
    input_norm: Tensor
    post_norm: Tensor
    query_norm: Tensor | None
    key_norm: Tensor | None
    window: int | None


@dataclass(frozen=True, slots=True)
class DecoderWeights:
    """A whole decoder.

    Attributes:
        embedding, head: ``[vocabulary, hidden]``; the same tensor where they are tied.
        norm: ``[hidden]``.
        cosine, sine: ``[positions, head size / 2]`` in the model's dtype.
    """

    layers: Sequence[LayerWeights]
    embedding: Tensor
    head: Tensor
    norm: Tensor
    cosine: Tensor
    sine: Tensor
    heads: int
    kv_heads: int
    head_size: int
    hidden: int
    intermediate: int
    epsilon: float
    scaling: float

    @property
    def kept(self) -> list[LayerShape]:
        """What each layer keeps per token."""
        return [LayerShape(self.kv_heads, self.head_size, self.head_size)] * len(self.layers)


@torch.no_grad()
def take_apart(module: Any, positions: int) -> DecoderWeights:
    """Merges the module's matrices and tabulates its rotary angles.

    Args:
        module: a transformers causal language model in eval mode, on its device.
        positions: how many the table needs.

    Raises:
        NotFusableError: another family, or a variation that the fused layers do not compute.
            The module is untouched.
    """
    family, config = type(module).__name__, module.config
    if family not in _FAMILIES:
        raise NotFusableError(f"{family} is not among {', '.join(sorted(_FAMILIES))}")
    layers = module.model.layers
    size = layers[0].self_attn.head_dim
    if config.hidden_act != "silu":
        raise NotFusableError(f"{family}: activation {config.hidden_act}")
    if size & (size - 1) or not 16 <= size <= 256:
        raise NotFusableError(f"{family}: heads of {size}")
    for layer in layers:
        if any(linear.bias is not None for linear in (layer.self_attn.o_proj, *_mlp(layer))):
            raise NotFusableError(f"{family}: biases beside those of query, key and value")
    attentions = attention_of(module)
    if len({(x.shape, x.scaling, x.softcap) for x in attentions}) > 1 or attentions[0].softcap is not None:
        raise NotFusableError(f"{family}: layers that attend differently, or with a cap on their scores")
    reference = module.get_input_embeddings().weight
    ids = torch.arange(positions, device=reference.device)[None]
    cosine, sine = module.model.rotary_emb(reference[:1][None], ids)
    if cosine.shape[-1] != size:
        raise NotFusableError(f"{family}: rotary embedding of {cosine.shape[-1]} of {size} dimensions")
    return DecoderWeights(
        layers=[_layer(layer, how.window) for layer, how in zip(layers, attentions, strict=True)],
        embedding=reference,
        head=module.get_output_embeddings().weight,
        norm=module.model.norm.weight,
        cosine=cosine[0, :, : size // 2].contiguous(),
        sine=sine[0, :, : size // 2].contiguous(),
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        head_size=size,
        hidden=config.hidden_size,
        intermediate=config.intermediate_size,
        epsilon=config.rms_norm_eps,
        scaling=attentions[0].scaling,
    )


def give_up(module: Any) -> None:
    """Takes the matrices of all linear layers from a module, which cannot be run any more."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            part.weight.data = part.weight.new_empty(0)


def _mlp(layer: Any) -> list[nn.Linear]:
    return [layer.mlp.gate_proj, layer.mlp.up_proj, layer.mlp.down_proj]


def _layer(layer: Any, window: int | None) -> LayerWeights:
    attention = layer.self_attn
    projections = [attention.q_proj, attention.k_proj, attention.v_proj]
    bias = None
    if projections[0].bias is not None:
        bias = torch.cat([linear.bias for linear in projections])
    gate, up, down = _mlp(layer)
    return LayerWeights(
        query_key_value=_merged(projections),
        query_key_value_bias=bias,
        output=attention.o_proj.weight,
        gate_up=_merged([gate, up]),
        down=down.weight,
        input_norm=layer.input_layernorm.weight,
        post_norm=layer.post_attention_layernorm.weight,
        query_norm=attention.q_norm.weight if hasattr(attention, "q_norm") else None,
        key_norm=attention.k_norm.weight if hasattr(attention, "k_norm") else None,
        window=window,
    )


def _merged(linears: Sequence[nn.Linear]) -> Tensor:
    merged = torch.cat([linear.weight for linear in linears])
    for linear, part in zip(linears, merged.split([x.out_features for x in linears]), strict=True):
        linear.weight.data = part
    return merged
