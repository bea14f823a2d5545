"""Models, and other objects of a class."""

from typing import Any


def check_instance(name: str, value: Any, kind: type, text: str) -> None:
    """Refuses an object of another class.

    Args:
        name: of the argument.
        value: what was given for it.
        kind: the class.
        text: what is allowed and where it comes from, after "must be".

    Raises:
        TypeError: it is no instance of the class.
    """
    if not isinstance(value, kind):
        raise TypeError(f"`{name}` must be {text}. Received: {type(value).__name__}.")


def check_one_to_one(model: Any) -> None:
    """Refuses what is no Keras model of one input and one output.

    Raises:
        TypeError: no Keras model.
        ValueError: a model without an input yet, or with other numbers of inputs or outputs.
    """
    import keras  # `check_instance` alone needs none

    check_instance("model", model, keras.Model, "a Keras model")
    inputs, outputs = (len(getattr(model, ends, ())) for ends in ("inputs", "outputs"))
    if not inputs:
        raise ValueError(
            f"`model` must be a built Sequential or functional model. Received: {model.name!r} "
            f"({type(model).__name__}). Give it an `Input`."
        )
    if (inputs, outputs) != (1, 1):
        raise ValueError(
            f"`model` must have one input and one output. Received: {inputs} inputs and {outputs} "
            "outputs. Verify one output at a time, by `keras.Model(inputs, output)`, and "
            "concatenate several inputs into one."
        )
