"""What users do beside plain `fit`: weights, interruptions, odd batches, images and functions."""

import copy
import pickle

import keras
import numpy as np
import pytest

import deel_lip_tf as lip
from deel_lip_tf import layers, losses, metrics
from tests._oracles.tolerances import SAME_FLOAT32
from tests._tables.all_losses import ALL_LOSSES, needed_by

pytestmark = pytest.mark.usefixtures("unoptimized_graphs")

CLASSES = 3


@pytest.fixture
def data(rng):
    x = rng.normal(size=(24, 6)).astype("float32")
    return x, np.argmax(x[:, :CLASSES], axis=1)


def network(make=lip.LossVariableSequential):
    stack = [layers.SpectralDense(8), layers.GroupSort2(), layers.SpectralDense(CLASSES)]
    return make([keras.Input((6,)), *stack])


def one_hot(labels):
    return np.eye(CLASSES, dtype="float32")[labels]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*no trainable param")
def test_weights_of_samples_and_of_classes(data):
    x, labels = data
    model = network()
    radius = metrics.CategoricalProvableAvgRobustness()
    model.compile(
        "adam",
        losses.MulticlassHKR(),
        weighted_metrics=[radius, metrics.MulticlassKR()],
        run_eagerly=True,
    )
    keep = np.isin(labels, (0, 1)).astype("float32")
    weighted = model.evaluate(x, one_hot(labels), sample_weight=keep, verbose=0, return_dict=True)
    rest = model.evaluate(x[keep > 0], one_hot(labels[keep > 0]), verbose=0, return_dict=True)
    for name in (radius.name, "MulticlassKR"):
        assert weighted[name] == pytest.approx(rest[name], rel=1e-5)
    # a class of weight 0 teaches nothing: the loss of its samples leaves no trace
    model = network()
    model.compile("sgd", losses.TauSparseCategoricalCrossentropy(3.0), run_eagerly=True)
    before = model(x)
    model.fit(x[labels == 2], labels[labels == 2], class_weight={0: 1.0, 1: 1.0, 2: 0.0}, verbose=0)
    np.testing.assert_allclose(model(x), before, **SAME_FLOAT32)


class Interrupted(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        if batch == 1:
            raise KeyboardInterrupt


@pytest.mark.slow
def test_an_interrupted_training_is_saved_and_resumed(data, tmp_path):
    x, labels = data
    model = network()
    model.compile("adam", losses.MulticlassHKRauto(min_margin=0.1), run_eagerly=True)
    monitor = lip.callbacks.MonitorCallback([model.layers[0].name], str(tmp_path / "logs"))
    with pytest.raises(KeyboardInterrupt):
        model.fit(x, one_hot(labels), batch_size=8, callbacks=[monitor, Interrupted()], verbose=0)
    model.save(tmp_path / "model.keras")
    resumed = keras.models.load_model(tmp_path / "model.keras")
    for one in (model, resumed):
        one.fit(x, one_hot(labels), batch_size=8, shuffle=False, verbose=0)
    np.testing.assert_allclose(resumed(x), model(x), **SAME_FLOAT32)
    margins = [one.loss.hinge_margins.numpy() for one in (model, resumed)]
    np.testing.assert_allclose(*margins, **SAME_FLOAT32)


@pytest.mark.parametrize("loss", ALL_LOSSES, ids=lambda loss: loss.__name__)
def test_a_loss_of_no_samples_is_finite(loss, tf):
    """One replica among several may receive none of the last batch."""
    made, is_sparse = loss(**needed_by(loss)), "Sparse" in loss.__name__
    shape, dtype = ((None,), "int32") if is_sparse else ((None, CLASSES), "float32")
    signature = [tf.TensorSpec(shape, dtype), tf.TensorSpec((None, CLASSES))]
    traced = tf.function(made, input_signature=signature)
    empty = np.zeros([size or 0 for size in shape], dtype)
    for one in (traced, made):
        assert np.isfinite(one(empty, np.zeros((0, CLASSES), "float32"))).all()


@pytest.mark.filterwarnings("ignore:Skipping variable loading for optimizer")
def test_losses_and_metrics_given_as_classes(data, tmp_path):
    """Keras makes objects of them, out of reach of what needs the number of outputs or a model."""
    x, labels = data
    model = network()
    model.compile(
        "adam", losses.MulticlassHKRauto, metrics=[metrics.Certificate_Multiclass], run_eagerly=True
    )
    assert model.loss.hinge_margins.shape == (CLASSES,)
    model.save(tmp_path / "model.keras")
    resumed = keras.models.load_model(tmp_path / "model.keras")
    found = [one.evaluate(x, one_hot(labels), verbose=0) for one in (model, resumed)]
    np.testing.assert_allclose(*found, rtol=1e-5)


@pytest.mark.parametrize(("scores", "dtype"), [("float64", None), ("float32", "float64")])
def test_certificates_of_scores_of_another_type(scores, dtype, data):
    x, labels = data
    model = network(lip.Sequential)
    certificate = metrics.Certificate_Multiclass(model, dtype=dtype)
    certificate.update_state(labels, keras.ops.cast(model(x), scores))
    expected = lip.certificates.certify(model, x, labels).radius.mean()
    assert float(certificate.result()) == pytest.approx(expected, rel=1e-4)


def test_no_samples_leave_running_means_as_they_are(rng):
    empty, batch = np.zeros((0, 4), "float32"), rng.normal(size=(5, 4)).astype("float32")
    loss = losses.MulticlassSoftHKR()
    loss.update_state(empty)
    assert loss.running_mean.numpy() == 1.0
    layer, expected = layers.BatchLipNorm(normalize=True), layers.BatchLipNorm(normalize=True)
    for one in (empty, batch, empty):
        layer(one, training=True)
    expected(batch, training=True)
    for got, wanted in zip(layer.weights, expected.weights, strict=True):
        np.testing.assert_array_equal(got, wanted)


SMALL_IMAGES = [(1, 9, 2), (9, 1, 2), (2, 2, 2), (1, 1, 2)]
WIDE_KERNELS = [
    lambda: layers.SpectralConv2D(4, 5),
    lambda: layers.SpectralConv2D(4, 5, padding="circular"),
    lambda: layers.SpectralConv2D(4, 5, 2, padding="reflect"),
    lambda: layers.SpectralConv2DTranspose(4, 5, 2),
    lambda: layers.SpectralDepthwiseConv2D(5),
    lambda: layers.PadConv2D(4, 5, padding="replicate"),
]


@pytest.mark.filterwarnings("ignore:.*not a 1-Lipschitz layer")
@pytest.mark.parametrize("shape", SMALL_IMAGES, ids=str)
@pytest.mark.parametrize("make", WIDE_KERNELS)
def test_images_smaller_than_the_kernel(make, shape, rng):
    model = lip.Sequential([keras.Input(shape), make(), keras.layers.Flatten()])
    x = rng.normal(size=(4, *shape)).astype("float32")
    np.testing.assert_allclose(model.vanilla_export()(x), model(x), **SAME_FLOAT32)
    bound = lip.bounds.lipschitz_bound(model).value
    found = lip.utils.evaluate_lip_const(model, x[:1])
    largest = lip.compute_layer_sv.compute_model_sv(model)[0][1][1]
    # the layer is linear: its Jacobian is its matrix
    assert found == pytest.approx(largest, rel=1e-6)
    assert found <= bound * (1 + 1e-12)


def test_copies_compute_the_same(data):
    x = data[0]
    model = network(lip.Sequential)
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    for other in (clone, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        np.testing.assert_allclose(other(x), model(x), **SAME_FLOAT32)


@pytest.mark.filterwarnings("error:.*lambda:UserWarning")
def test_exports_of_layers_with_functions_of_the_users(rng):
    scale = 0.5  # a closure: bytecode alone would lose it
    dense = keras.layers.Dense(
        3,
        activation=lambda x: scale * keras.ops.relu(x),
        kernel_initializer=lambda shape, dtype=None: keras.ops.ones(shape, dtype),
        bias_regularizer=lambda w: keras.ops.sum(w),
    )
    doubled = keras.layers.Lambda(lambda x: 2 * x, output_shape=(3,))
    slopes = layers.PReLUlip(
        alpha_initializer=lambda shape, dtype=None: 0.3 * keras.ops.ones(shape)
    )
    model = keras.Sequential([keras.Input((4,)), dense, doubled, slopes])
    x = rng.normal(size=(5, 4)).astype("float32")
    exported = lip.vanillaModel(model)
    np.testing.assert_allclose(exported(x), model(x), **SAME_FLOAT32)
    assert exported.layers[0] is not dense
