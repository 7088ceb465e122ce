"""The tests here break what they are given, and mend it."""

from fleet_fixtures import fleet, folder, greedy, own, tokenizer

__all__ = ["fleet", "folder", "greedy", "own", "tokenizer"]
