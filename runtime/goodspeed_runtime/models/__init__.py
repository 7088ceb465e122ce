"""Finds, fetches, converts and loads models and tokenizers, named by URI."""
