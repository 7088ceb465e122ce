"""Counter-based uniform noise: the same number for the same place, wherever it is drawn.

A generator with state would make an answer depend on what shared its batch, on
retries and on restarts. Here every draw is a pure function of (seed, position,
stream, start), so drafter and verifier need no state and two draws that must be
independent simply differ in one of the four. Philox4x32-10 (Salmon et al. 2011,
"Parallel random numbers: as easy as 1, 2, 3") in integer arithmetic that NumPy
and torch do alike, hence bit-identical on every device.
"""

from __future__ import annotations

from typing import Final, TypeVar

import numpy as np
import numpy.typing as npt
import torch

ACCEPT: Final = 0
"""Stream of the acceptance test of the draft token at a position."""
CHOOSE: Final = 1
"""Stream of the token that the verifier itself draws: first, correction or bonus."""
DRAFT: Final = 2
"""Stream of the drafter's own draws; `start` keeps redrafts of one position apart."""
RACE: Final = 3
"""Stream of what drafter and verifier share; `start` is the token id (`coupling`)."""
REST: Final = 4
"""Stream of the unlikely tokens' race, together."""
WITHIN: Final = 5
"""Stream of the choice among them."""

_WORD: Final = 0xFFFFFFFF
_MULTIPLIERS: Final = (0xD2511F53, 0xCD9E8D57)
_WEYL: Final = (0x9E3779B9, 0xBB67AE85)
_ROUNDS: Final = 10

Integers = TypeVar("Integers", npt.NDArray[np.int64], torch.Tensor)


def philox(
    counter: tuple[Integers, Integers, Integers, Integers], key: tuple[Integers, Integers]
) -> tuple[Integers, Integers, Integers, Integers]:
    """Philox4x32-10 over arrays of 32-bit words held in int64.

    Args:
        counter: four arrays of one shape (or broadcastable), words in 0 .. 2**32 - 1.
        key: two arrays, likewise.

    Returns:
        Four arrays of words in 0 .. 2**32 - 1.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        # The 64-bit product wraps into the sign bit; shifting and masking still reads its upper word.
        low = c0 * _MULTIPLIERS[0]
        high = c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            ((high >> 32) & _WORD) ^ c1 ^ k0,
            high & _WORD,
            ((low >> 32) & _WORD) ^ c3 ^ k1,
            low & _WORD,
        )
        k0 = (k0 + _WEYL[0]) & _WORD
        k1 = (k1 + _WEYL[1]) & _WORD
    return c0, c1, c2, c3


def uniform(
    seeds: npt.ArrayLike, positions: npt.ArrayLike, stream: int, *, start: npt.ArrayLike = 0
) -> npt.NDArray[np.float64]:
    """Draws one uniform number per (seed, position).

    Args:
        seeds: integers in ``0 .. 2**64 - 1``, broadcastable against `positions`.
        positions: index in the sequence of the token that the draw decides, ``>= 0``.
        stream: what the draw is for: `ACCEPT`, `CHOOSE` or `DRAFT`.
        start: index of the first token of the draft that the draw belongs to. A
            position may be drafted again after a rejection, and whether it is
            can depend on the first draw (through the grant), so the second needs
            a number of its own.

    Returns:
        float64 of the broadcast shape (at least one axis), multiples of 2**-53 in [0, 1).
    """
    bits = np.atleast_1d(np.asarray(seeds, dtype=np.uint64)).view(np.int64)
    arrays = np.broadcast_arrays(bits, np.asarray(positions, np.int64), np.asarray(start, np.int64))
    return np.ldexp(_mantissa(arrays[0], arrays[1], arrays[2], stream).astype(np.float64), -53)


def uniform_tensor(
    seeds: torch.Tensor, positions: torch.Tensor, stream: int, start: torch.Tensor
) -> torch.Tensor:
    """`uniform` for int64 tensors on any device, bit for bit; seeds hold the bits of the uint64."""
    shape = torch.broadcast_shapes(seeds.shape, positions.shape, start.shape)
    return (
        _mantissa(seeds.expand(shape), positions.expand(shape), start.expand(shape), stream).double()
        * 2.0**-53
    )


def _mantissa(seeds: Integers, positions: Integers, start: Integers, stream: int) -> Integers:
    zero = positions & 0
    words = philox(
        (positions & _WORD, start & _WORD, zero + stream, zero), (seeds & _WORD, (seeds >> 32) & _WORD)
    )
    return ((words[0] >> 5) << 26) + (words[1] >> 6)
