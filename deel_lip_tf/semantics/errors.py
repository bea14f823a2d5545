"""What a layer without a rule raises."""

__all__ = ["UnsupportedLayerError"]


class UnsupportedLayerError(ValueError):
    """An analysis has no rule for a layer or operation, or for how it is called.

    The message is the reason, without the name; whoever walks a model collects all of them.
    """
