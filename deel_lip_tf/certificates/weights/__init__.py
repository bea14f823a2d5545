"""Certificates of all models whose weights are near those of one: `certify(weights_within=...)`."""
