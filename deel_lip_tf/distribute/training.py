"""A loop around Keras's training step, for strategies under which `Model.fit` of Keras fails."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import keras

from deel_lip_tf._keras import built_for_training
from deel_lip_tf._validation.scalars import whole_number
from deel_lip_tf.constraints import apply_constraints
from deel_lip_tf.distribute.checkpoints import Checkpoints


def fit(
    model: keras.Model,
    data: Any,
    epochs: int = 1,
    *,
    validation_data: Any = None,
    callbacks: Iterable[keras.callbacks.Callback] | None = None,
    directory: str | Path | None = None,
    verbose: int | str = 0,
) -> keras.callbacks.History:
    """Trains a compiled model on all replicas of its strategy, in one process or in several.

    `Model.fit` of Keras 3 fails under `tf.distribute.MultiWorkerMirroredStrategy`, and under
    `MirroredStrategy` where the first batch cannot be shared out evenly. This loop runs the same
    `train_step` of the model: losses of this library take the value and the gradient of the global
    batch, and learned margins, running means and metrics are those of one device, up to the order
    in which float32 numbers are added. It works without a strategy, too.

    Every worker calls it with the same arguments; a killed worker stops all, because none can go on
    without its sums. Start them all again: they resume after the last epoch in `directory`.

    Args:
        model: made and compiled inside `strategy.scope()`.
        data: a `tf.data.Dataset` of global batches `(x, y)` or `(x, y, sample_weight)`, the same on
            every worker, that ends; or a function that returns it, given the number of the epoch
            from 0: so that the order of what is shuffled, with a seed made of it, is the same
            where a run resumes. Each worker keeps its part of every batch; the last may be
            partial.
        epochs: how many, those that a former run has finished included.
        validation_data: a dataset that is evaluated after each epoch, or `None`.
        callbacks: Keras's callbacks. They are called on every worker with the same logs after each
            epoch, and without any after a batch: those that write files must not write the same
            one on all workers. What a callback remembers is not in the checkpoint;
            `LossParamScheduler(..., step=None)` counts with the optimizer, which is.
        directory: where the chief keeps the last two checkpoints, one after each epoch, seen by
            all workers; weights, learned margins, running means, the optimizer and the epoch are
            in them. One that is broken is left out with a warning. `None` for no checkpoints.
        verbose: 1 for a progress bar of Keras's, on whichever worker asks for it.

    Returns:
        The `History` of the epochs of this call: the same values on every worker.

    Raises:
        TypeError: `epochs` is not an integer, or `data` no dataset.
        ValueError: the backend is not TensorFlow, the model is not compiled or not of the strategy,
            the strategy is `ParameterServerStrategy`, whose replicas have no global batch, `data`
            has no batch, or the checkpoints are of another model, none of them is whole, or they
            are not seen by all workers.
        OSError: a checkpoint cannot be written; the former ones are kept.
        RuntimeError: another worker is gone.

    Example:
        >>> import tensorflow as tf
        >>> strategy = tf.distribute.get_strategy()  # or MultiWorkerMirroredStrategy(), at the top
        >>> with strategy.scope():
        ...     model = lip.Sequential([keras.Input((2,)), lip.layers.SpectralDense(1)])
        ...     model.compile(keras.optimizers.SGD(0.1), lip.losses.HKR(alpha=10.0))
        >>> rows = (np.eye(2), np.array([[0.0], [1.0]]))
        >>> data = tf.data.Dataset.from_tensor_slices(rows).batch(2)  # of the global batch
        >>> history = lip.distribute.fit(model, data, epochs=3)
        >>> values = history.history["loss"]
        >>> len(values), values[0] > values[-1]
        (3, True)
    """
    strategy = _strategy_of(model)
    epochs = whole_number("epochs", epochs)
    data_of = data if callable(data) else lambda epoch: data
    with strategy.scope(), _a_lost_worker_said():
        example = _dataset(data_of(0))
        built_for_training(model, example.element_spec)
        saved = Checkpoints(model, strategy, directory)
        first = saved.restored()
        batches = _distributed(strategy, example)
        train = _on_replicas(strategy, model.train_step, batches.element_spec)
        evaluate = _evaluation(model, strategy, validation_data)
        history = keras.callbacks.History()
        calls = keras.callbacks.CallbackList(
            [*(callbacks or ()), history],
            add_progbar=bool(verbose),
            model=model,
            epochs=epochs,
            steps=None,
            verbose=verbose,
        )

        def one_epoch(epoch):
            batches = _distributed(strategy, _dataset(data_of(epoch)))
            return _run(model, train, batches, calls) | evaluate()

        _all_epochs(model, range(first, epochs), one_epoch, calls, saved)
    return history


def _all_epochs(
    model: keras.Model, epochs: range, one_epoch: Callable, calls: Any, saved: Checkpoints
) -> None:
    model.stop_training = False
    calls.on_train_begin()
    logs: dict[str, float] = {}
    for epoch in epochs:
        calls.on_epoch_begin(epoch)
        logs = one_epoch(epoch)
        calls.on_epoch_end(epoch, logs)
        saved.save(epoch + 1)
        if model.stop_training:
            break
    model.optimizer.finalize_variable_values(model.trainable_variables)
    if model.optimizer.use_ema:
        apply_constraints(model)
    calls.on_train_end(logs)


def _strategy_of(model: keras.Model) -> Any:
    if keras.config.backend() != "tensorflow":
        raise ValueError(
            "`distribute.fit` is for Keras on TensorFlow. On JAX set `keras.distribution."
            "DataParallel` and call `model.fit`, which sees the global batch. Received: Keras on "
            f"{keras.config.backend()}."
        )
    import tensorflow as tf

    if not getattr(model, "compiled", False):
        raise ValueError(
            "`model` must be compiled, inside `strategy.scope()`. Received: a model that is not."
        )
    strategy = model.distribute_strategy
    if isinstance(strategy, tf.distribute.ParameterServerStrategy):
        raise ValueError(
            "`ParameterServerStrategy` has no global batch: each worker changes the weights by "
            "itself, with batches and at times of its own, so that no sum over replicas exists. "
            "Use `MultiWorkerMirroredStrategy`. Received: a model made in that strategy."
        )
    is_shared = strategy.num_replicas_in_sync > 1
    values = [variable.value for variable in model.variables]
    if is_shared and not all(isinstance(one, tf.distribute.DistributedValues) for one in values):
        raise ValueError(
            "`model` must be made inside `strategy.scope()`, so that every replica has its "
            f"weights. Received: a model made outside of the scope of {type(strategy).__name__}."
        )
    return strategy


def _dataset(data: Any) -> Any:
    import tensorflow as tf

    if not isinstance(data, tf.data.Dataset):
        raise TypeError(
            "`data` must be a `tf.data.Dataset` of batches, or a function of the epoch that "
            f"returns one. Received: {type(data).__name__}. Make one of arrays with "
            "`tf.data.Dataset.from_tensor_slices((x, y)).batch(size)`."
        )
    return data


def _distributed(strategy: Any, data: Any) -> Any:
    """The part of a dataset that the replicas of this worker see, batch by batch."""
    import tensorflow as tf

    policy = tf.data.experimental.AutoShardPolicy
    options = tf.data.Options()
    if data.options().experimental_distribute.auto_shard_policy == policy.AUTO:
        # by rows: which worker has which does not depend on how many files there are
        options.experimental_distribute.auto_shard_policy = policy.DATA
    return strategy.experimental_distribute_dataset(data.with_options(options))


def _on_replicas(strategy: Any, step: Callable, element_spec: Any) -> Callable:
    """A step of all replicas, traced once for batches of every size."""
    import tensorflow as tf

    @tf.function(input_signature=[element_spec], autograph=False)
    def run(batch):
        strategy.run(step, args=(batch,))

    return run


def _run(model: keras.Model, step: Callable, batches: Any, calls: Any) -> dict[str, float]:
    """The metrics over all batches, summed over all replicas."""
    model.reset_metrics()
    count = 0
    for batch in batches:
        calls.on_train_batch_begin(count)
        step(batch)
        calls.on_train_batch_end(count)
        count += 1
    if not count:
        raise ValueError("`data` must have at least one batch. Received: an empty dataset.")
    return {name: float(value) for name, value in model.get_metrics_result().items()}


@contextlib.contextmanager
def _a_lost_worker_said() -> Iterator[None]:
    import tensorflow as tf

    try:
        yield
    except (tf.errors.UnavailableError, tf.errors.AbortedError) as error:
        raise RuntimeError(
            "Another worker is gone, and no step can be finished without it. Start all workers "
            "again: with `directory` they resume after the last epoch that is saved there. "
            f"Received: {str(error)[:200]}"
        ) from error


def _evaluation(model: keras.Model, strategy: Any, data: Any) -> Callable[[], dict[str, float]]:
    if data is None:
        return dict
    batches = _distributed(strategy, _dataset(data))
    step = _on_replicas(strategy, model.test_step, batches.element_spec)

    def evaluate():
        logs = _run(model, step, batches, keras.callbacks.CallbackList())
        return {f"val_{name}": value for name, value in logs.items()}

    return evaluate
