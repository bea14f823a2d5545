"""Certificates that say more, or other things, than that one label stays what it is.

Each rests on the proven constants of `certificates.proofs` and on logits in float64 with their
rounding errors; the model itself is run and compared, as by `certify`.
"""
