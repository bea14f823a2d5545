"""Layers of several steps that are bounded, and where they can be computed, as one.

Residual ones, whose identity is counted once, rotations with shifts, and recurrent ones.
"""
