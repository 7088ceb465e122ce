"""Encodes tokens and draft distributions as packed little-endian bytes.

NumPy arrays in, bytes out, and back: nothing here knows gRPC. Everything that
comes off the network is checked for shape here; whether an id lies inside the
vocabulary is the verifier's question, since only it knows the vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

PROTOCOL_VERSION = 2
"""Of the conversation in speculation.proto; both ends must speak the same."""
TOKEN_BYTES = 3
TOKEN_LIMIT = 1 << (8 * TOKEN_BYTES)
SUPPORT_LIMIT = 4096

Tokens = npt.NDArray[np.int32]


class WireError(ValueError):
    """Bytes from the peer do not have the shape the protocol gives them."""


@dataclass(slots=True)
class DraftBlock:
    """A draft as both ends hold it; nobody changes one (making a frozen one takes three times as long).

    The distribution of position j is ``q_j(id) = weight / sum(weights of j)``,
    integers throughout, so that what is sent is exactly what was sampled from.

    Attributes:
        tokens: int32 ``[n]``, the drafted ids.
        support_sizes: int32 ``[n]``; 0 says q_j is a point mass on ``tokens[j]``.
        support_ids: int32 ``[sum(support_sizes)]``.
        support_weights: int32 ``[sum(support_sizes)]``, each in 1..65535.
    """

    tokens: Tokens
    support_sizes: npt.NDArray[np.int32]
    support_ids: Tokens
    support_weights: npt.NDArray[np.int32]

    @classmethod
    def point_masses(cls, tokens: npt.ArrayLike) -> DraftBlock:
        """A draft whose every q is a point mass: greedy drafting and prompt lookup."""
        ids = np.asarray(tokens, dtype=np.int32)
        none = np.empty(0, dtype=np.int32)
        return cls(ids, np.zeros(ids.size, dtype=np.int32), none, none)

    def __len__(self) -> int:
        return int(self.tokens.size)

    def split(self, ends: Sequence[int]) -> list[DraftBlock]:
        """Point masses, cut into drafts that end there; the last end is the block's."""
        tokens, sizes, none = self.tokens, self.support_sizes, self.support_ids
        return [
            DraftBlock(tokens[start:end], sizes[start:end], none, none) for start, end in pairwise([0, *ends])
        ]

    def part(self, start: int, end: int) -> DraftBlock:
        """The tokens ``[start, end)`` with their distributions."""
        if not self.support_ids.size:
            none = self.support_ids
            return DraftBlock(self.tokens[start:end], self.support_sizes[start:end], none, none)
        ends = np.concatenate([[0], np.cumsum(self.support_sizes)])
        first, last = int(ends[min(start, len(self))]), int(ends[min(end, len(self))])
        return DraftBlock(
            self.tokens[start:end],
            self.support_sizes[start:end],
            self.support_ids[first:last],
            self.support_weights[first:last],
        )


def pack_tokens(tokens: npt.ArrayLike) -> bytes:
    """Packs ids as u24 little-endian.

    Args:
        tokens: integers ``[n]`` in ``0 .. 2**24 - 1``.

    Raises:
        ValueError: an id does not fit 24 bits.
    """
    ids = np.ascontiguousarray(tokens, dtype="<u4")
    if ids.size and int(ids.max()) >= TOKEN_LIMIT:
        raise ValueError(f"token id {int(ids.max())} does not fit {8 * TOKEN_BYTES} bits")
    return ids.view(np.uint8).reshape(-1, 4)[:, :TOKEN_BYTES].tobytes()


def unpack_tokens(data: bytes) -> Tokens:
    """Unpacks u24 little-endian ids into int32 ``[n]``.

    Raises:
        WireError: the length is no multiple of three.
    """
    if len(data) % TOKEN_BYTES:
        raise WireError(f"{len(data)} bytes of tokens are no multiple of {TOKEN_BYTES}")
    ids = np.zeros((len(data) // TOKEN_BYTES, 4), dtype=np.uint8)
    ids[:, :TOKEN_BYTES] = np.frombuffer(data, dtype=np.uint8).reshape(-1, TOKEN_BYTES)
    return ids.view("<i4").reshape(-1).astype(np.int32, copy=False)


def pack_draft(block: DraftBlock) -> tuple[bytes, bytes, bytes, bytes]:
    """Packs a draft into (tokens, support_sizes, support_ids, support_weights)."""
    tokens = pack_tokens(block.tokens)
    if not block.support_sizes.any():
        return tokens, b"", b"", b""
    return (
        tokens,
        block.support_sizes.astype("<u2").tobytes(),
        pack_tokens(block.support_ids),
        block.support_weights.astype("<u2").tobytes(),
    )


def unpack_draft(tokens: bytes, sizes: bytes, ids: bytes, weights: bytes) -> DraftBlock:
    """Unpacks and checks a draft.

    Raises:
        WireError: lengths disagree, a support is too large, a weight is zero,
            a support names an id twice, or it lacks the drafted token.
    """
    drafted = unpack_tokens(tokens)
    if not sizes and not ids and not weights:
        return DraftBlock.point_masses(drafted)
    if len(sizes) != 2 * drafted.size:
        raise WireError(
            f"support_sizes holds {len(sizes)} bytes for {drafted.size} tokens, needs {2 * drafted.size}"
        )
    support_sizes = np.frombuffer(sizes, dtype="<u2").astype(np.int32)
    support_ids = unpack_tokens(ids)
    total = int(support_sizes.sum())
    if support_ids.size != total or len(weights) != 2 * total:
        raise WireError(
            f"support_sizes adds up to {total}, but support_ids holds {support_ids.size} ids "
            f"and support_weights {len(weights)} bytes"
        )
    if support_sizes.size and int(support_sizes.max()) > SUPPORT_LIMIT:
        raise WireError(f"a support of {int(support_sizes.max())} ids is over the limit of {SUPPORT_LIMIT}")
    support_weights = np.frombuffer(weights, dtype="<u2").astype(np.int32)
    if total and int(support_weights.min()) == 0:
        raise WireError("support_weights holds a zero: leave the id out of the support instead")
    owner = np.repeat(np.arange(drafted.size), support_sizes)
    keys = owner.astype(np.int64) * TOKEN_LIMIT + support_ids
    if np.unique(keys).size != total:
        raise WireError("a support names the same id twice")
    has_support = support_sizes > 0
    holds_token = np.zeros(drafted.size, dtype=bool)
    holds_token[owner[support_ids == drafted[owner]]] = True
    if not np.array_equal(holds_token, has_support):
        raise WireError("a drafted token is outside its own support: it cannot have been sampled from it")
    return DraftBlock(drafted, support_sizes, support_ids, support_weights)
