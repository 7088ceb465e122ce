"""Stubs generated from speculation.proto by `make stubs`; never edited."""
