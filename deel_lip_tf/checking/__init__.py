"""Checks proofs of `python -m deel_lip_tf verify --proof`; shares no code with what finds them."""
