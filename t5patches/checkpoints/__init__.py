"""Checkpoints: finding, choosing and comparing them."""
