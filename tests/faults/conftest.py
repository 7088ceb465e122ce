"""Every test here breaks a fleet of its own."""

from fleet_fixtures import folder, greedy, own, tokenizer

__all__ = ["folder", "greedy", "own", "tokenizer"]
