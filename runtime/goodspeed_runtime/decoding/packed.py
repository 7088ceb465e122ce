"""Runs any decoder-only transformers model over a ragged batch in one pass.

transformers lets attention be replaced by name. Ours takes keys and values from
slots that we own, so one pass serves prefill chunks, single tokens and drafts of
any mix of sequences, without padding the linear layers and without a cache
object. A family that does not go through that interface, or whose attention has
a part we do not compute, is refused when it is loaded rather than served wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from goodspeed_runtime.decoding.kv_cache import LayerShape
from goodspeed_runtime.decoding.round import Round, Segment, check_segments
from goodspeed_runtime.decoding.served import ServedModel
from goodspeed_runtime.decoding.tiles import TILE_ROWS, check_rows, tiles

__all__ = ["PackedModel", "Segment", "UnsupportedModelError", "check_token_ids"]

_NAME = "goodspeed_packed"
_KNOWN_OPTIONS = frozenset({"dropout", "position_ids", "use_cache", "is_causal", "output_attentions"})


class UnsupportedModelError(ValueError):
    """A model family whose attention the packed pass cannot reproduce."""


class Loaded(Protocol):
    """What is needed of a loaded model."""

    @property
    def module(self) -> Any:
        """A transformers causal language model in eval mode."""


class _Attends(Protocol):
    def attend(
        self,
        layer: int,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        scaling: float,
        window: int | None,
        softcap: float | None,
    ) -> Tensor: ...


@dataclass(frozen=True, slots=True)
class Attention:
    """How one layer attends: what it keeps per token, and what it passes to its attention."""

    shape: LayerShape
    scaling: float
    window: int | None
    softcap: float | None


class _Probe:
    """Stands in for a round in the first pass, to learn how each layer attends."""

    def __init__(self) -> None:
        self.layers: dict[int, Attention] = {}

    def attend(
        self,
        layer: int,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        scaling: float,
        window: int | None,
        softcap: float | None,
    ) -> Tensor:
        if layer in self.layers:
            raise UnsupportedModelError(f"attention layer {layer} attends twice in one pass")
        shape = LayerShape(key.shape[1], key.shape[3], value.shape[3])
        self.layers[layer] = Attention(shape, scaling, window, softcap)
        return query.new_zeros(1, query.shape[2], query.shape[1], value.shape[3])


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    packed_round: _Attends,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **options: object,
) -> tuple[Tensor, None]:
    """What transformers calls in place of its own attention; masks are the round's."""
    for name, option in options.items():
        if option is not None and name not in _KNOWN_OPTIONS:
            raise UnsupportedModelError(f"{type(module).__name__} passes {name!r} to its attention")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    layer = cast(int, module.layer_idx)
    return packed_round.attend(
        layer, query, key, value, scaling=scale, window=sliding_window, softcap=softcap
    ), None


AttentionInterface.register(_NAME, _attention)


class PackedModel(ServedModel):
    """A causal language model, its KV cache, and one pass for a ragged batch.

    The module's attention is replaced for good: plain forward passes need another copy of it.
    """

    def __init__(
        self, loaded: Loaded, *, slots: int, max_context: int, batch_invariant: bool = False
    ) -> None:
        """Allocates the cache.

        Args:
            loaded: the model, on its device and in its dtype.
            slots: how many sequences it can hold.
            max_context: most tokens of one sequence.
            batch_invariant: a sequence's logits have the same bits whatever shares its passes.

        Raises:
            UnsupportedModelError: the family cannot be served by packed passes.
            ValueError: the context is longer than the model's positions, or batches cannot be made not to
                matter here.
        """
        self._module = loaded.module
        self._tile = TILE_ROWS if batch_invariant else None
        self.check(loaded, max_context)
        layers = attention_of(self._module)
        first = next(self._module.parameters())
        super().__init__(
            [layer.shape for layer in layers],
            slots=slots,
            max_context=max_context,
            dtype=first.dtype,
            device=first.device,
            vocabulary_size=int(self._module.get_input_embeddings().num_embeddings),
        )
        if batch_invariant:
            self._check_rows(first.dtype)

    def _check_rows(self, dtype: torch.dtype) -> None:
        for part in self._module.modules():
            if isinstance(part, nn.Linear):
                check_rows(part, part.in_features, dtype, self.device)
        width = getattr(self._module.config, "intermediate_size", None)
        for part in self._module.modules():
            if width and (activation := getattr(part, "act_fn", None)) is not None:
                check_rows(activation, width, dtype, self.device)
                break

    @torch.inference_mode()
    def forward(self, segments: Sequence[Segment]) -> Tensor:
        """See `ServedModel.forward`; the logits stay valid."""
        check_token_ids(segments, self.vocabulary_size)
        if self._tile is None:
            return self._pass(segments)
        check_segments(segments, self.cache)
        return torch.cat([self._pass(tile) for tile in tiles(segments, self._tile)])

    def _pass(self, segments: Sequence[Segment]) -> Tensor:
        layout = Round(segments, self.cache, self.device, self._tile)
        logits = _call(self._module, layout.token_ids, layout.position_ids, layout.logit_rows, layout)
        for segment in segments:
            self.cache.wrote(segment.slot, segment.start, segment.tokens)
        return logits[: sum(segment.logit_rows for segment in segments)].float()

    @staticmethod
    def check(loaded: Loaded, max_context: int) -> torch.device:
        """Refuses what would be served wrong, before anything is allocated.

        Returns:
            The device that the model is on.

        Raises:
            UnsupportedModelError: the family cannot be served by packed passes.
            ValueError: the context is longer than the model's positions.
        """
        module = loaded.module
        config, family = module.config, type(module).__name__
        if not getattr(module, "_supports_attention_backend", False):
            raise UnsupportedModelError(
                f"{family} does not use transformers' attention interface; choose a decoder-only family that "
                "does, such as Llama, Qwen2, Qwen3, Mistral or Gemma"
            )
        rope = getattr(config, "rope_parameters", None) or {}
        kinds = {str(part.get("rope_type")) for part in (rope, *rope.values()) if isinstance(part, dict)}
        if kinds & {"dynamic", "longrope"}:
            raise UnsupportedModelError(
                f"{family}: rotary scaling {sorted(kinds)} depends on the longest sequence in the pass, so "
                "sequences would disturb each other; set rope_type to default, linear, yarn or llama3"
            )
        limit = getattr(config, "max_position_embeddings", None)
        if limit is not None and max_context > limit:
            raise ValueError(f"max_context is {max_context}, but {family} has {limit} positions: lower it")
        device: torch.device = next(module.parameters()).device
        return device


def check_token_ids(segments: Sequence[Segment], vocabulary_size: int) -> None:
    """Raises ValueError for an id outside the vocabulary."""
    for segment in segments:
        ids = np.asarray(segment.tokens)
        if ids.size and not 0 <= int(ids.min()) <= int(ids.max()) < vocabulary_size:
            raise ValueError(f"slot {segment.slot}: a token id is outside 0..{vocabulary_size - 1}")


@torch.inference_mode()
def attention_of(module: Any) -> list[Attention]:
    """Replaces a model's attention by ours, for good, and learns from one pass how each layer attends.

    Args:
        module: a transformers causal language model in eval mode.

    Raises:
        UnsupportedModelError: the family cannot be served by packed passes.
    """
    module.set_attn_implementation(_NAME)
    probe = _Probe()
    zero = torch.zeros(1, 1, dtype=torch.int64, device=next(module.parameters()).device)
    family, expected = type(module).__name__, module.config.num_hidden_layers
    try:
        _call(module, zero, zero, zero[0], probe)
    except (UnsupportedModelError, TypeError) as error:
        raise UnsupportedModelError(f"{family} cannot be served: {error}") from error
    if sorted(probe.layers) != list(range(expected)):
        raise UnsupportedModelError(
            f"{family} has {expected} layers, of which {len(probe.layers)} keep keys and values of their "
            "own; recurrent and cache-sharing layers are not supported"
        )
    return [probe.layers[layer] for layer in range(expected)]


def _call(module: Any, token_ids: Tensor, position_ids: Tensor, rows: Tensor, layout: _Attends) -> Tensor:
    output = module(
        input_ids=token_ids,
        position_ids=position_ids,
        use_cache=False,
        logits_to_keep=rows,
        packed_round=layout,
    )
    return cast(Tensor, output.logits)[0]
