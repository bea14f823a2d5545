"""Sums over all replicas of a `tf.distribute` strategy: what is known of the global batch.

In a replica TensorFlow shows the rows of that replica alone. Whatever is a statistic of the batch
is therefore added up over the replicas, by the one function `summed`; the rest of this module is
built on it. With one replica, and on other backends, it is the identity and computes nothing: with
`keras.distribution` a program of JAX sees the global batch as it is.
"""

import math
from typing import Any

import keras
from keras import ops

Tensor = Any


def count() -> int:
    """How many replicas compute the current step together; 1 where there is no strategy."""
    if keras.config.backend() != "tensorflow":
        return 1
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    return 1 if context is None else context.num_replicas_in_sync


def summed(value: Any) -> Any:
    """A tensor, or a list of tensors, summed over the replicas; gradients are so, too."""
    if count() == 1:
        return value
    import tensorflow as tf

    return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, value)


def somewhere(mask: Tensor) -> Tensor:
    """1 where a mask of zeros and ones is 1 in one replica at least."""
    return mask if count() == 1 else ops.cast(summed(mask) > 0, mask.dtype)


def assign(variable: keras.Variable, value: Tensor) -> None:
    """Assigns what every replica has computed alike, once.

    Replicas share a variable that was made outside of their strategy: they meet here, so that none
    reads what another has already assigned.
    """
    if count() == 1:
        variable.assign(value)
        return
    import tensorflow as tf

    def once(strategy, values):
        variable.assign(strategy.experimental_local_results(values)[0])

    tf.distribute.get_replica_context().merge_call(once, args=(value,))


def check_fit(model: keras.Model) -> None:
    """Refuses what `fit` of Keras 3 cannot train: any model, in several processes.

    Raises:
        ValueError: the model was made in a strategy with parameter servers, or with workers.
    """
    if keras.config.backend() != "tensorflow":
        return
    import tensorflow as tf

    strategy = model.distribute_strategy
    if isinstance(strategy, tf.distribute.ParameterServerStrategy):
        raise ValueError(
            "`fit` of Keras 3 fails with parameter servers, whatever the model, and their workers "
            "have no global batch. Use `MultiWorkerMirroredStrategy`, with `deel_lip_tf.distribute."
            "fit`. Received: a model made in ParameterServerStrategy."
        )
    if isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy) and (
        sum(map(len, strategy.cluster_resolver.cluster_spec().as_dict().values())) > 1
    ):
        raise ValueError(
            "`fit` of Keras 3 fails with workers in several processes, whatever the model. Use "
            "`deel_lip_tf.distribute.fit(model, dataset, epochs)`, with the same arguments on "
            "every worker. Received: a model made in MultiWorkerMirroredStrategy."
        )


def joint(part: Tensor) -> Tensor:
    """The share of each replica in a sum over replicas: all have the same, which is reported.

    Its gradient is that of the replica's own part, because gradients are added up afterwards.
    """
    shared = summed(ops.stop_gradient(part)) / count()
    return part + ops.stop_gradient(shared - part)


def moments(
    x: Tensor, axes: tuple[int, ...], with_variance: bool
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Mean and variance over some axes and all replicas, and the number of entries of all of `x`.

    The variance is that of the centered values, so that a large mean spoils no digits of it; `None`
    where nobody asks for it, because it takes a second sum.
    """
    if count() == 1 and keras.config.backend() == "tensorflow":
        return *ops.moments(x, axes=axes), ops.size(x)  # which others take from the squares
    total, size = summed([ops.sum(x, axis=axes, keepdims=True), ops.cast(ops.size(x), x.dtype)])
    averaged = size / math.prod(total.shape)
    mean = ops.divide_no_nan(total, averaged)
    if not with_variance:
        return ops.squeeze(mean, axes), None, size
    squares = summed(ops.sum((x - mean) ** 2, axis=axes))
    return ops.squeeze(mean, axes), ops.divide_no_nan(squares, averaged), size
