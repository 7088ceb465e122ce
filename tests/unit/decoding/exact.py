"""Float64 NumPy references that the decoding package is held against; nothing is shared with it."""

import numpy as np
from scipy.stats import chisquare

FALSE_ALARM = 1e-7
"""Each statistical test rejects a correct implementation this rarely: all together under one in a million."""


def distribution(logits, temperature=1.0, top_k=0, top_p=1.0):
    """What a request samples from, row by row, by sorting in float64."""
    logits = np.atleast_2d(np.asarray(logits, dtype=np.float64))
    rows = np.zeros_like(logits)
    for row, out in zip(logits, rows, strict=True):
        if temperature == 0:
            out[row.argmax()] = 1.0
            continue
        order = np.argsort(-row, kind="stable")[: top_k or row.size]
        p = np.exp((row[order] - row.max()) / temperature)
        p /= p.sum()
        p[np.cumsum(p) - p >= top_p] = 0.0
        out[order] = p / p.sum()
    return rows


def p_value(counts, probabilities):
    """Chi-square goodness of fit; 0 where something impossible was seen. Rare cells are joined."""
    counts, expected = np.asarray(counts, float), np.asarray(probabilities) * np.sum(counts)
    if counts[expected == 0].any():
        return 0.0
    order = np.argsort(expected)
    counts, expected = counts[order], expected[order]
    # All cells under 10 become one, with as many more as bring that one to 10.
    rare = max(int((expected < 10.0).sum()), int(np.searchsorted(np.cumsum(expected), 10.0)) + 1)
    counts = np.append(counts[rare:], counts[:rare].sum())
    expected = np.append(expected[rare:], expected[:rare].sum())
    return float(chisquare(counts, expected * counts.sum() / expected.sum()).pvalue)
