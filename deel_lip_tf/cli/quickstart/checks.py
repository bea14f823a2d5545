"""Which Keras backend the job runs on: told before training, in one line."""

from deel_lip_tf.cli.arguments import BadInput


def require_tensorflow() -> None:
    """Refuses Keras's other backends: foolbox and the SavedModel need TensorFlow.

    Raises:
        BadInput: if Keras runs on another backend.
    """
    import keras

    backend = keras.backend.backend()
    if backend != "tensorflow":
        raise BadInput(
            f"quickstart attacks and exports with TensorFlow, but Keras runs on {backend!r}: "
            "set KERAS_BACKEND=tensorflow"
        )
