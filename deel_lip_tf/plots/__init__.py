"""Pictures of what is trained, proven, attacked and verified.

Every function takes numbers, or what the other rooms return, and returns a matplotlib figure. It
draws into `ax` where that is given, and into a figure of its own otherwise, which a notebook shows
as the value of a cell: nothing is shown by force, and pyplot is not imported. Titles and labels may
be changed afterwards, `figure.axes[0].set(title=...)`.

Needs matplotlib (the extra `demo`), from the first call on.
"""

from deel_lip_tf._lazy import public_names
from deel_lip_tf.plots.accuracy import certified_accuracy, decisions, frontier, verified_share
from deel_lip_tf.plots.functions import distributions, lipschitz_cone, plane
from deel_lip_tf.plots.images import adversarials, images, saliency, statuses
from deel_lip_tf.plots.layers import layer_bounds, singular_values
from deel_lip_tf.plots.lines import curves, margins

__all__ = [
    "adversarials",
    "certified_accuracy",
    "curves",
    "decisions",
    "distributions",
    "frontier",
    "images",
    "layer_bounds",
    "lipschitz_cone",
    "margins",
    "plane",
    "saliency",
    "singular_values",
    "statuses",
    "verified_share",
]

__dir__ = public_names(__name__)
