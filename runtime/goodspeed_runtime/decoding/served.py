"""A model as servers see it: slots of keys and values, segments in, logits out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from goodspeed_runtime.decoding.bursts import Steps
from goodspeed_runtime.decoding.kv_cache import KVCache, LayerShape
from goodspeed_runtime.decoding.round import Segment


class ServedModel(ABC):
    """A model with its KV cache that takes a ragged batch in one pass. Not for several threads at once.

    Attributes:
        cache: keys and values; slots are acquired, released and rolled back there.
        vocabulary_size: ids that may be fed.
        token_ids: int32, rising: the id of each column of the logits; None where column i is id i.
        device: of the weights and the logits.
        steps: for drafts of several tokens before the host sees any of them (`bursts`); None where there are
            none, as where the host is near.
    """

    def __init__(
        self,
        layers: Sequence[LayerShape],
        *,
        slots: int,
        max_context: int,
        dtype: torch.dtype,
        device: torch.device,
        vocabulary_size: int,
        token_ids: npt.NDArray[np.int32] | None = None,
    ) -> None:
        self.device = device
        self.vocabulary_size = vocabulary_size
        self.token_ids = token_ids
        self.steps: Steps | None = None
        self.cache = KVCache(layers, slots=slots, max_context=max_context, dtype=dtype, device=device)
        self.acquire, self.release = self.cache.acquire, self.cache.release

    @property
    def lengths(self) -> list[int]:
        """Valid tokens per slot; setting one lower rolls its sequence back."""
        return self.cache.lengths

    @abstractmethod
    def forward(self, segments: Sequence[Segment]) -> Tensor:
        """Feeds all segments in one pass and stores their keys and values.

        Args:
            segments: at most one per slot, each starting no later than its slot's length.

        Returns:
            float32 ``[sum of logit_rows, columns]`` on the model's device, the rows in the order of the
            segments, valid until the next pass. Slot lengths afterwards count the new tokens.

        Raises:
            ValueError: a segment is empty, overlaps another, leaves a gap, exceeds the context or holds an
                id outside the vocabulary, or all hold more tokens than a pass takes. Nothing has been
                written.
        """
