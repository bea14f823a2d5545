"""What stands between `fit` and a training step, on every backend of Keras.

Keras hands a training function the iterator of the batches: TensorFlow `(iterator)`, JAX
`(state, iterator)`, torch the batch itself.
"""

import itertools
from collections.abc import Callable
from typing import Any

import keras


def skip_batches(model: keras.Model, batches: int) -> None:
    """Makes the next training steps take their batches and leave the model as it is.

    Args:
        model: inside of `fit`.
        batches: how many are skipped.
    """
    function: Callable = model.train_function
    left = batches

    def skip(*given: Any) -> Any:
        nonlocal left
        *state, iterator = given
        if left <= 0:
            model.train_function = function
            return function(*given)
        try:
            if keras.config.backend() != "torch":
                for _ in range(model.steps_per_execution):
                    next(iterator)
        except BaseException:  # whoever trains again skips nothing
            model.train_function = function
            raise
        left -= model.steps_per_execution
        return ({}, *state) if state else {}

    model.train_function = skip


def watch_batches(model: keras.Model, seen: Callable[[list], None]) -> None:
    """Shows the batches of each training step before it takes them.

    Args:
        model: inside of `fit`, on one device.
        seen: called with a list of them: as many as `steps_per_execution`, or what is left.
    """
    function: Callable = model.train_function

    def watched(*given: Any) -> Any:
        *state, data = given
        if keras.config.backend() == "torch":
            seen(list(data))
            return function(data)
        batches = list(itertools.islice(data, model.steps_per_execution))
        if not batches:
            raise StopIteration
        seen(batches)
        return function(*state, iter(batches))

    watched.of = function  # type: ignore[attr-defined]
    model.train_function = watched


def unwatch(model: keras.Model) -> None:
    """Undoes `watch_batches`."""
    model.train_function = getattr(model.train_function, "of", model.train_function)


def synchronize(model: keras.Model) -> None:
    """Gives variables the values of the last step, which JAX keeps elsewhere during an epoch."""
    if hasattr(model, "jax_state_sync"):
        model.jax_state_sync()
