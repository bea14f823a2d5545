"""A step of training leaves out of its graph what hardly any step computes, and computes it.

Every model is compared with one of Keras's class, whose steps are run eagerly: these leave nothing
out. Kernels are put far from the manifold of orthogonal matrices in every way that there is.
"""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import ops

import deel_lip_tf as lip
from deel_lip_tf.layers import SpectralConv2D, SpectralDense
from deel_lip_tf.normalizers.polar import factor, tf_graphs
from tests._oracles import oracles

pytestmark = [
    pytest.mark.skipif(
        keras.backend.backend() != "tensorflow", reason="other backends have no such graph"
    ),
    pytest.mark.filterwarnings("ignore:Sequential model contains"),
]

BATCH = 16
# Of float32, through the gradients of two steps.
NEAR = dict(rtol=1e-3, atol=2e-4)


def samples(batches=1):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(batches * BATCH, 5, 5, 2)).astype("float32")
    return x, rng.normal(size=(batches * BATCH, 3)).astype("float32")


def network(kind=lip.Sequential, optimizer=None, eps=1e-3, is_small=False, **compiled):
    """Kernels that are tall, square and wide, one of them kept by a constraint of the user."""
    keras.utils.set_random_seed(0)
    kept = keras.constraints.MaxNorm(50.0)
    others = [
        SpectralDense(6, kernel_constraint=kept, eps_bjorck=eps),
        SpectralDense(6, activation="relu", eps_bjorck=eps),
        SpectralDense(8, eps_bjorck=eps),
    ]
    model = kind(
        [
            keras.Input((5, 5, 2)),
            SpectralConv2D(4, 3, activation="relu", eps_bjorck=eps),
            keras.layers.Flatten(),
            *([] if is_small else others),
            keras.layers.Dense(3),
        ]
    )
    model.compile(optimizer or keras.optimizers.SGD(0.05), "mse", **compiled)
    return model


def far_weights(model, seed=1, scale=1.0):
    """Singular values between 0.3 and 3 times the scale: what is rounded hardly grows."""
    rng = np.random.default_rng(seed)
    return [_far(rng, weight.shape, scale) for weight in model.weights]


def _far(rng, shape, scale):
    if len(shape) == 1:
        return rng.normal(size=shape)
    factors = np.linalg.svd(rng.normal(size=shape).reshape(-1, shape[-1]), full_matrices=False)
    stretched = factors[0] * rng.uniform(0.3, 3.0, len(factors[1])) @ factors[2]
    return scale * stretched.reshape(shape)


class Assigning(keras.callbacks.Callback):
    """Puts weights anywhere before each batch."""

    def on_train_batch_begin(self, batch, logs=None):
        self.model.set_weights(far_weights(self.model, seed=batch))


def step(model, batches=1, **arguments):
    model.fit(*samples(batches), batch_size=BATCH, shuffle=False, verbose=0, **arguments)


def by_tensorflow(model):
    model.layers[0].kernel.value.assign(-20.0 * model.layers[0].kernel + 0.01)
    step(model)


def at_a_huge_rate(model):
    model.optimizer.learning_rate = 20.0
    step(model)
    model.optimizer.learning_rate = 0.05


def not_a_number(model):
    weights = model.get_weights()
    model.layers[0].kernel.assign(np.full(model.layers[0].kernel.shape, np.nan))
    step(model)
    assert np.isnan(np.array(model.layers[0].kernel)).any()
    model.set_weights(weights)


def assigned(model, **arguments):
    model.set_weights(far_weights(model, **arguments))


WAYS = {
    "near": step,
    "set_weights": lambda model: (assigned(model), step(model, batches=2)),
    "tiny": lambda model: (assigned(model, scale=1e-12), step(model)),
    "TensorFlow's assign": by_tensorflow,
    "callback": lambda model: step(model, batches=2, callbacks=[Assigning()]),
    "huge rate": at_a_huge_rate,
    "not a number": not_a_number,
    "train_on_batch": lambda model: (assigned(model), model.train_on_batch(*samples())),
}
COMPILED = {
    "graph": {},
    "steps_per_execution": dict(steps_per_execution=2),
    "eager": dict(run_eagerly=True),
    "jit_compile": dict(jit_compile=True),
}
SLOW = ("steps_per_execution", "eager", "jit_compile")


def assert_same_weights(model, reference):
    for mine, theirs in zip(model.get_weights(), reference.get_weights(), strict=True):
        np.testing.assert_allclose(mine, theirs, **NEAR)


@pytest.mark.parametrize(
    "way",
    [pytest.param(each, marks=pytest.mark.slow if each in SLOW else []) for each in COMPILED],
)
def test_kernels_from_anywhere_are_trained_as_by_a_graph_with_all(way, monkeypatch):
    monkeypatch.setattr(tf_graphs, "_WITHOUT_GRAPH", 10**6)  # to the end without it
    is_small = way == "jit_compile"  # XLA takes long over what is left out elsewhere
    model = network(is_small=is_small, **COMPILED[way])
    reference = network(keras.Sequential, is_small=is_small, run_eagerly=True)
    start = model.get_weights()
    for name, change in WAYS.items():
        if name == "callback" and way == "steps_per_execution":
            continue  # it is called before every other batch
        for each in (model, reference):
            each.set_weights(start)
            change(each)
        assert_same_weights(model, reference)


def test_the_loss_of_a_step_is_that_of_the_nearest_orthogonal_kernels():
    """By NumPy, of kernels that were assigned just before."""
    model = lip.Sequential([keras.Input((6,)), SpectralDense(4), SpectralDense(4)])
    model.compile("sgd", "mse")
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(BATCH, 6)), rng.normal(size=(BATCH, 4))
    for scale in (1.0, 1e-9, 1e9, 1e-20, 1e20):
        for layer in model.layers:
            layer.kernel.assign(scale * rng.normal(size=layer.kernel.shape))
        outputs, weights = x, model.get_weights()
        for kernel, bias in zip(weights[::2], weights[1::2], strict=True):
            outputs = outputs @ oracles.polar(kernel.astype("float64")) + bias
        # Singular values end within 1e-3 of 1.
        assert model.train_on_batch(x, y) == pytest.approx(np.mean((outputs - y) ** 2), rel=2e-2)


@pytest.mark.parametrize(
    "arguments",
    [
        dict(use_ema=True, ema_momentum=0.5, ema_overwrite_frequency=2),
        pytest.param(dict(gradient_accumulation_steps=2), marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_what_optimizers_assign_is_constrained(arguments):
    models = [
        network(
            kind, keras.optimizers.SGD(1.0, **arguments), run_eagerly=kind is not lip.Sequential
        )
        for kind in (lip.Sequential, keras.Sequential)
    ]
    for model in models:
        step(model, batches=2)
    if "use_ema" in arguments:
        lip.constraints.apply_constraints(models[1])  # as `fit` of this library's models does
    assert_same_weights(*models)


@pytest.mark.slow
def test_large_kernels_and_mixed_precision():
    for policy in ("float32", "mixed_bfloat16"):
        models = []
        for kind in (lip.Sequential, keras.Sequential):
            keras.utils.set_random_seed(0)
            model = kind([keras.Input((400,)), SpectralDense(390, dtype=policy)])
            model.compile("sgd", "mse", run_eagerly=kind is keras.Sequential)
            models.append(model)
        rng = np.random.default_rng(0)
        x, y = rng.normal(size=(BATCH, 400)), rng.normal(size=(BATCH, 390))
        for _ in range(2):
            for model in models:
                assigned(model)
                model.train_on_batch(x, y)
            assert_same_weights(*models)


# --- what is in the graph ------------------------------------------------------------------------


LAST_RESORTS = ("_many_steps", "differential_adjoint")


def count_traces(monkeypatch):
    """Counts the traces, and not the runs, of what a step hardly ever computes."""
    import tensorflow as tf

    traced = []

    def counting(name, function):
        def counted(*arguments):
            traced.extend([name] * tf.inside_function())
            return function(*arguments)

        return counted

    for name in LAST_RESORTS:
        monkeypatch.setattr(factor, name, counting(name, getattr(factor, name)))
    return traced


def test_it_is_traced_once_it_is_taken_often(monkeypatch):
    traced = count_traces(monkeypatch)
    monkeypatch.setattr(tf_graphs, "_WITHOUT_GRAPH", 120)
    model = network(eps=1.01e-3)  # nobody has traced kernels of this precision
    x, y = samples()
    model.train_on_batch(x, y)
    first = model.train_function
    assigned(model)
    model.train_on_batch(x, y)
    assert traced == [] and model.train_function is first
    for _ in range(6):  # the constraint of the user leaves one kernel off the manifold
        model.train_on_batch(x, y)
    assert model.train_function is not first
    assert set(traced) == set(LAST_RESORTS)


def test_code_of_others_has_all_in_its_graph(monkeypatch):
    """Which may keep what it has traced, and write it to a file."""
    import tensorflow as tf

    class Other(lip.Sequential):
        pass

    traced = count_traces(monkeypatch)
    network(Other, eps=1.02e-3).train_on_batch(*samples())
    assert set(traced) == set(LAST_RESORTS)
    traced.clear()
    model = network(eps=1.03e-3)
    model.train_on_batch(*samples())
    assert traced == []
    call = tf.function(lambda x: model(x, training=True), autograph=False)
    call.get_concrete_function(tf.TensorSpec((None, 5, 5, 2)))
    assert set(traced) == {"_many_steps"}


def _kinked(x):
    """Twice differentiable on both sides of a conditional."""
    return ops.cond(ops.sum(x) > 0, lambda: x**2, lambda: x**3)


@pytest.mark.parametrize("call", ["traced_once", "noinline"])
def test_graphs_whose_gradient_was_taken_are_not_those_that_xla_compiles(call, tf):
    def gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = ops.sum(getattr(tf_graphs, call)(_kinked, x))
        return tape.gradient(y, x)

    x = tf.constant([[1.0, 2.0]])
    for compiled in (False, True, False):
        found = tf.function(gradient, autograph=False, jit_compile=compiled)(x)
        np.testing.assert_array_equal(found, [[2.0, 4.0]])


INTER_OP = """
import tensorflow as tf
tf.config.threading.set_inter_op_parallelism_threads(1)
tf.config.threading.set_intra_op_parallelism_threads(1)
import numpy as np, keras, deel_lip_tf as lip
model = lip.Sequential([keras.Input((400,)), *(lip.layers.SpectralDense(n) for n in (390, 8, 8))])
model.compile("sgd", "mse")
rng = np.random.default_rng(0)
model.set_weights([rng.normal(size=weight.shape) for weight in model.weights])
model.train_on_batch(rng.normal(size=(4, 400)), rng.normal(size=(4, 8)))
"""


@pytest.mark.slow
def test_a_single_thread_does_not_wait_for_itself():
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-c", INTER_OP]
    assert subprocess.run(command, timeout=120, env=environment).returncode == 0
