"""Blocks of several steps that are bounded, and where they can be computed, as one."""
