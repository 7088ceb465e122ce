"""Steps of a model on the CPU: what a burst put on "the device" is read back and fed by a plain pass."""

import torch

from goodspeed_runtime.decoding.round import Segment


class EagerSteps:
    """`bursts.Steps` without graphs.

    Attributes:
        fed: how many tokens each step fed.
    """

    def __init__(self, model, slots, sizes=None):
        columns = model.vocabulary_size if model.token_ids is None else len(model.token_ids)
        self._model = model
        self.segments = torch.zeros(slots, 4, dtype=torch.int32)
        self.token_ids = torch.zeros(slots, dtype=torch.int32)
        self.logits = torch.zeros(slots, columns)
        self.sizes = sizes or [size for size in (1, 2, 4) if size < slots] + [slots]
        self.cache = model.cache
        self.fed = []

    def begin(self, segments):
        self._put(segments)

    def feed(self, rows):
        wanted = [
            Segment(slot, start, [int(self.token_ids[row])], logit_rows)
            for row, (count, start, slot, logit_rows) in enumerate(self.segments.tolist())
            if count == 1
        ]
        # Whoever goes on is among the first, and none is left out by the padding.
        assert len(wanted) <= rows
        assert not self.segments[len(wanted) :].any()
        self._put(wanted)
        self.fed.append(len(wanted))

    def capture(self, part):
        return part

    def _put(self, segments):
        if segments:
            self.logits[: len(segments)] = self._model.forward(segments)
