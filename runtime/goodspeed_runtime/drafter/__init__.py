"""The drafter: an OpenAI-compatible server that drafts with a small model and has a verifier check it."""
