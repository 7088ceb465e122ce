"""Exact decoding: one packed pass for a ragged batch, the lossless test, and the noise between them.

Computes and decides; it knows no network, no clock and no scheduler (docs/lossless.md).
"""
