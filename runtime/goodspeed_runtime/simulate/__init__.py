"""Scenarios for the scheduler's simulator: read from YAML, played, put into tables, JSON and pictures.

The rounds themselves are played by `goodspeed_runtime.scheduling.simulator`; nothing here decides a grant.
"""
