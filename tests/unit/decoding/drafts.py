"""Drafts by way of the wire, as a verifier gets them."""

import numpy as np

from goodspeed_runtime.protocol.wire import DraftBlock, pack_draft, unpack_draft


def through_the_wire(block):
    return unpack_draft(*pack_draft(block))


def nothing():
    return DraftBlock.point_masses([])


def block_of(proposals, row):
    """The draft of one sequence from the proposals of successive positions."""
    sizes = np.array([p.support_sizes[row] for p in proposals], dtype=np.int32)
    ids = [p.support_ids[row, :size] for p, size in zip(proposals, sizes, strict=True)]
    weights = [p.support_weights[row, :size] for p, size in zip(proposals, sizes, strict=True)]
    empty = np.empty(0, dtype=np.int32)
    return through_the_wire(
        DraftBlock(
            np.array([p.tokens[row] for p in proposals], dtype=np.int32),
            sizes,
            np.concatenate([*ids, empty]),
            np.concatenate([*weights, empty]),
        )
    )
