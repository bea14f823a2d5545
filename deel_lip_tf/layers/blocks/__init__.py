"""Layers that are bounded as a whole.

Residual ones, whose identity is counted once, with the kernel or by a proof of the whole, and
recurrent ones, whose steps are.
"""
