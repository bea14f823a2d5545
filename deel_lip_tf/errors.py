"""The errors that several rooms raise and catch."""

__all__ = ["UnsupportedLayerError"]


class UnsupportedLayerError(ValueError):
    """A layer or an operation has no rule; the message is the reason, without its name.

    Whoever walks through a model catches it, and names everything without a rule in one error.
    """
