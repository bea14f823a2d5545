"""Bounds of what a network computes on a domain: intervals, linear bounds, constants."""
