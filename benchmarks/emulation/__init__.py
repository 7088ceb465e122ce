"""Targets, drafters and networks that behave as stated, for benchmarks of everything around the models."""
