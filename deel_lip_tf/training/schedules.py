"""Numbers that change with the steps of training."""

from typing import Any

import keras
from keras import ops
from keras.optimizers.schedules import LearningRateSchedule as Schedule

from deel_lip_tf._registration import register
from deel_lip_tf._validation.scalars import FINITE, Rule, number, whole_number

UNIT = Rule(lambda value: 0.0 <= value <= 1.0, "between 0 and 1, or a schedule of such numbers")


@register
class Ramp(Schedule):
    """A number that stays, moves on a line, and stays: `start` to `end` in `steps` steps.

    Args:
        start: the number before step `begin`.
        end: the number from step `begin + steps` on.
        steps: how many steps the way takes, at least 1. One step is one batch.
        begin: the step after which it moves; 0 by default.

    Raises:
        TypeError, ValueError: an argument out of its range.

    Example:
        >>> kappa = lip.training.Ramp(1.0, 0.5, steps=10, begin=5)
        >>> print([float(kappa(step)) for step in (0, 5, 10, 15, 99)])
        [1.0, 1.0, 0.75, 0.5, 0.5]
    """

    def __init__(self, start: float, end: float, steps: int, begin: int = 0):
        self.start = number("start", start, FINITE)
        self.end = number("end", end, FINITE)
        self.steps = whole_number("steps", steps)
        self.begin = whole_number("begin", begin, least=0)

    def __call__(self, step: Any) -> Any:
        """The number at a step."""
        way = (ops.cast(step, "float32") - self.begin) / self.steps
        return self.start + (self.end - self.start) * ops.clip(way, 0.0, 1.0)

    def get_config(self) -> dict:
        """Arguments of the constructor."""
        names = ("start", "end", "steps", "begin")
        return {name: getattr(self, name) for name in names}


def checked(name: str, value: Any) -> float | Schedule:
    """A number between 0 and 1, or a schedule, as given or by its config.

    Raises:
        TypeError, ValueError: it is neither.
    """
    if isinstance(value, dict):
        value = keras.saving.deserialize_keras_object(value)
    return value if isinstance(value, Schedule) else number(name, value, UNIT)


def value_at(value: float | Schedule, step: Any) -> Any:
    """The number at a step."""
    return value(step) if isinstance(value, Schedule) else value
