"""Searches: of inputs that break a property, and of parts of a domain that are easier to bound."""
