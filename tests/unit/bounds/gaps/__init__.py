"""Bounds of pairs of logits."""
