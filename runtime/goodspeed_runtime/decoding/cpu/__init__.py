"""A decoder for CPUs: weights in the layout that the processor multiplies best, few operations between."""
