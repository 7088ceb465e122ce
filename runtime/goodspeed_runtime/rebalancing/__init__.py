"""The slow loop's decisions: from what a fleet shows to what should change. Pure numpy, no clock, no I/O.

The operator and the fleet simulator call the same `decide`.
"""
