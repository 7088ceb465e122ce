"""Who may draft how much: allocators, utilities and estimators on arrays, and the simulator that judges them.

Everything here is a function of data: no network, no clock, and no randomness but the generator handed in.
"""
