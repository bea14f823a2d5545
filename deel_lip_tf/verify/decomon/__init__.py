"""decomon's functions, under its names and with its signs, on the methods of this package.

    from deel_lip_tf.verify import decomon

    converted = decomon.clone(model, method="crown")
    decomon.get_adv_box(converted, x_min, x_max, source_labels=y) < 0     # proven robust
    decomon.check_adv_box(converted, x_min, x_max, source_labels=y) >= 0  # a counterexample exists

Where decomon returned something else:

- Labels as integers were taken for masks, so that `get_adv_box` could be negative for samples with
  counterexamples. Here integers are classes.
- `refine_boxes` made empty boxes of images (`x_max` was overwritten by `x_min`), so that
  `n_sub_boxes` proved anything. Here the parts cover the box.
- Bounds of softplus left its values out. Here they do not.
- `get_range_box` with `n_sub_boxes` took its extremes over classes too, and lost their axis. Here
  the shape is (n, classes) for any number of parts.
- `get_adv_noise` with `p=2` used the squared norm of the weights, and most methods failed. Here the
  norm is the dual one, and every method works.
- `check_adv_box` used the lower one of two lines at one corner. Here an attack looks for a
  counterexample, which is replayed through the model: the score is never lower by more than the
  attack is weaker, and a tie is no counterexample.
- Inverted boxes raised `UserWarning`, a negative `eps` became 0. Here both are a `ValueError`.
"""

from deel_lip_tf._lazy import public_names
from deel_lip_tf.verify.decomon import models
from deel_lip_tf.verify.decomon.boxes import (
    check_adv_box,
    get_adv_box,
    get_lower_box,
    get_range_box,
    get_upper_box,
)
from deel_lip_tf.verify.decomon.conversion import METHODS_BY_NAME, Converted, clone
from deel_lip_tf.verify.decomon.models import convert
from deel_lip_tf.verify.decomon.noise import (
    get_adv_noise,
    get_lower_noise,
    get_range_noise,
    get_upper_noise,
)
from deel_lip_tf.verify.decomon.scores import refine_boxes

__all__ = ["METHODS_BY_NAME", "Converted", "check_adv_box", "clone", "convert", "get_adv_box"]
__all__ += ["get_adv_noise", "get_lower_box", "get_lower_noise", "get_range_box", "get_range_noise"]
__all__ += ["get_upper_box", "get_upper_noise", "models", "refine_boxes"]

__dir__ = public_names(__name__)
