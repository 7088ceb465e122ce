"""Chooses how a model is run: by layers of our own where they fit, else by transformers'."""

from __future__ import annotations

import logging

import numpy as np
import numpy.typing as npt

from goodspeed_runtime.decoding.cpu.model import CPUModel
from goodspeed_runtime.decoding.cpu.native_model import NativeModel
from goodspeed_runtime.decoding.fused.weights import NotFusableError
from goodspeed_runtime.decoding.int8 import round_in_place
from goodspeed_runtime.decoding.packed import Loaded, PackedModel
from goodspeed_runtime.decoding.served import ServedModel
from goodspeed_runtime.models.dtype import Weights

logger = logging.getLogger(__name__)


def serve(
    loaded: Loaded,
    *,
    slots: int,
    max_context: int,
    max_tokens: int,
    max_rows: int,
    token_ids: npt.NDArray[np.int32] | None = None,
    batch_invariant: bool = False,
    weights: Weights = "model",
) -> ServedModel:
    """Allocates what a model needs to be served.

    Args:
        loaded: the model, on its device and in its dtype.
        slots: how many sequences it can hold.
        max_context: most tokens of one sequence.
        max_tokens: most tokens of one pass.
        max_rows: most rows of logits of one pass.
        token_ids: int32, rising: the only ids whose logits matter. Models may compute the others all the
            same: what they do is in their ``token_ids``.
        batch_invariant: a sequence's logits have the same bits whatever shares its passes
            (docs/adr/0025-batch-invariance.md).
        weights: of the linear layers but the head. With "int8" the module is changed for good; only fused
            layers read fewer bytes for it, all others multiply by the rounded values in the model's dtype.

    Raises:
        UnsupportedModelError: the family cannot be served at all.
        ValueError: the context is longer than the model's positions, or batches cannot be made not to
            matter here.
    """
    place = PackedModel.check(loaded, max_context).type
    try:
        if place == "cpu":
            if weights == "int8":
                round_in_place(loaded.module)
            try:
                # Batches never matter there.
                return NativeModel(loaded, slots=slots, max_context=max_context, token_ids=token_ids)
            except NotFusableError as reason:
                logger.info("no compiled pass: %s", reason)
            return CPUModel(
                loaded,
                slots=slots,
                max_context=max_context,
                token_ids=token_ids,
                batch_invariant=batch_invariant,
            )
        if place == "cuda":
            # Triton comes with CUDA builds of torch only.
            from goodspeed_runtime.decoding.fused.model import FusedModel

            return FusedModel(
                loaded,
                slots=slots,
                max_context=max_context,
                max_tokens=max_tokens,
                max_rows=max_rows,
                batch_invariant=batch_invariant,
                weights=weights,
            )
    except NotFusableError as reason:
        logger.info("served by transformers' own layers: %s", reason)
    if weights == "int8" and place != "cpu":
        round_in_place(loaded.module)
    return PackedModel(loaded, slots=slots, max_context=max_context, batch_invariant=batch_invariant)
