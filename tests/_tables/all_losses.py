"""Every loss class of the library, and what its constructor takes."""

from deel_lip_tf import losses

ALL_LOSSES = [
    getattr(losses, name)
    for name in losses.__all__
    if name != "ParametricLoss" and isinstance(getattr(losses, name), type)
]

# Losses that read class indices as well as rows: the shape of the labels tells which they are.
OF_ANY_LABELS = [losses.OffsetCrossentropy, losses.LogitAnnealing, losses.EMMA, losses.GloRo]


def parameters_of(make):
    """Names of the parameters of a loss."""
    code = make.__init__.__code__
    return code.co_varnames[1 : code.co_argcount + code.co_kwonlyargcount]


def needed_by(make):
    """Values for the parameters that have no default, and some for others."""
    names = ("alpha", "tau", "min_margin", "radius")
    return {name: 2.0 for name in names if name in parameters_of(make)}
