"""Layers that slide a kernel over a sequence or an image."""
