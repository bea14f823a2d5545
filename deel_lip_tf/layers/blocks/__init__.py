"""Residual layers: their identity is counted once, with the kernel or by a proof of the whole."""
