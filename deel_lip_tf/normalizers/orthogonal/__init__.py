"""Orthogonal convolutions with an explicit kernel, made of factors that are orthogonal each."""
