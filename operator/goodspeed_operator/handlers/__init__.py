"""Thin glue: what kopf sees becomes keys to reconcile, and a reconcile becomes calls."""
