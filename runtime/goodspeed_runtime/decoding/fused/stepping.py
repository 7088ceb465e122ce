"""Steps of a fused decoder whose tokens are on the device already (`bursts.Steps`).

A step is a pass of one token a sequence, padded as `FusedModel` pads it: the same kernels
run over the same shapes whether the host or the step before wrote what they read.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from goodspeed_runtime.decoding.fused.decoder import Decoder
from goodspeed_runtime.decoding.fused.schedule import NUMBERS
from goodspeed_runtime.decoding.kv_cache import KVCache
from goodspeed_runtime.decoding.round import Segment


class FusedSteps:
    """See `bursts.Steps`."""

    def __init__(
        self,
        decoder: Decoder,
        cache: KVCache,
        forward: Callable[[Sequence[Segment]], Tensor],
        graphs: Graphs,
        *,
        sizes: Sequence[int],
        token_sizes: Sequence[int],
        row_sizes: Sequence[int],
    ) -> None:
        """Takes the parts of a model.

        Args:
            decoder: with the buffers that passes share.
            cache: of the model.
            forward: its pass over what the host knows.
            graphs: that steps are captured among.
            sizes: how many sequences steps are padded to.
            token_sizes: what passes pad tokens to.
            row_sizes: what they pad rows of logits to.
        """
        self._decoder, self._forward, self._graphs = decoder, forward, graphs
        self._token_sizes, self._row_sizes = token_sizes, row_sizes
        self.segments = decoder.columns["segments"].view(-1, NUMBERS)
        self.token_ids: Tensor = decoder.columns["token_ids"]
        self.logits = decoder.logits
        self.sizes = sizes
        self.cache = cache

    def begin(self, segments: Sequence[Segment]) -> None:
        """A pass, whose logits stay where it wrote them."""
        self._forward(segments)

    def feed(self, rows: int) -> None:
        """A step."""
        tokens = self._token_sizes[bisect_left(self._token_sizes, rows)]
        self._decoder.begin(tokens)
        self._decoder.complete(tokens)
        self._decoder.head(self._row_sizes[bisect_left(self._row_sizes, rows)])

    def capture(self, part: Callable[[], None]) -> Callable[[], None]:
        """A replay of its graph."""
        return self._graphs.capture(part).replay


class Graphs:
    """Captured graphs of one model; they share memory, so never two of them run at once."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool = torch.cuda.graph_pool_handle()
        self._stream = torch.cuda.Stream(device)

    @torch.inference_mode()
    def capture(self, part: Callable[[], None]) -> torch.cuda.CUDAGraph:
        """Runs a part once, then captures it."""
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            part()  # compiles kernels and chooses algorithms, which a capture must not
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
                part()
        current.wait_stream(self._stream)
        return graph
