"""Files of certificates: what cannot be is refused, and what they are about is checked on use."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import deel_lip_tf as lip
from deel_lip_tf.certificates import Certificates, certify


def network(seed=0):
    """Made by the same code each time, with the weights of a seed."""
    keras.utils.set_random_seed(seed)
    x = keras.Input((6, 6, 1))
    y = lip.layers.SpectralConv2D(4, 3, activation=lip.layers.GroupSort2())(x)
    y = layers.Add()([y, layers.BatchNormalization()(y) * 0.5])
    head = keras.Sequential([keras.Input((6, 6, 4)), layers.Flatten(), layers.Dense(3)])
    return keras.Model(x, head(layers.Dropout(0.2)(ops.clip(y, -0.5, 0.5))))


@pytest.fixture
def samples(rng):
    return rng.normal(size=(8, 6, 6, 1)).astype("float32")


@pytest.fixture
def content(samples, tmp_path):
    """The fields of a file, and a function that writes others and loads them."""
    certify(network(), samples, np.arange(8) % 3).save(tmp_path / "good.npz")
    with np.load(tmp_path / "good.npz") as archive:
        fields = dict(archive)
    assert (fields["radius"] > 0).any() and not fields["correct"].all()

    def load(**changes):
        np.savez(tmp_path / "other.npz", **{**fields, **changes})
        return Certificates.load(tmp_path / "other.npz")

    return fields, load


def at(index, value):
    def change(array):
        changed = array.copy()
        changed[index] = value
        return changed

    return change


IMPOSSIBLE = {
    "negative radius": ("radius", lambda a: -a - 1, "the radius"),
    "radius NaN": ("radius", at(2, np.nan), "the radius"),
    "radius text": ("radius", lambda a: a.astype(str), "radii of"),
    "radius integer": ("radius", lambda a: np.ones(len(a), int), "radii of"),
    "radius of a wrong label": ("radius", lambda a: np.ones(len(a)), "wrong labels"),
    "negative margin": ("margin", lambda a: -a, "margins"),
    "no margin": ("margin", lambda a: 0 * a, "margins"),
    "margin NaN": ("margin", lambda a: a * np.nan, "margins"),
    "label half": ("label", lambda a: a + 0.5, "labels of"),
    "label negative": ("label", at(1, -2), "the label"),
    "label signed among classes": ("label", lambda a: at(0, 2)(at(1, -1)(a)), "the label"),
    "correct number": ("correct", lambda a: a.astype(float), "wrong labels"),
    "bound negative": ("bound", lambda a: np.float64(-1.0), "the bound"),
    "bound NaN": ("bound", lambda a: np.float64(np.nan), "the bound"),
    "bound infinite": ("bound", lambda a: np.float64(np.inf), "the bound"),
    "bound integer": ("bound", lambda a: np.int64(1), "the bound"),
    "bounds": ("bound", lambda a: np.ones(3), "the bound"),
    "matrix": ("label", lambda a: a[:, None], "lengths"),
}


@pytest.mark.parametrize("is_old", [False, True])
@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_what_certify_never_returns_is_not_loaded(name, is_old, content):
    fields, load = content
    field, change, reason = IMPOSSIBLE[name]
    if is_old:
        del fields["content_fingerprint"]
    with pytest.raises(ValueError, match=f"{reason}.*Certify again"):
        load(**{field: change(fields[field])})


@pytest.mark.parametrize("field", ["radius", "margin", "bound", "semantics", "data_fingerprint"])
def test_what_was_changed_within_its_range_is_not_loaded(field, content):
    fields, load = content
    is_text = fields[field].dtype.kind == "U"
    other = {"semantics": "float32"}.get(field, "0" * 64) if is_text else 2.0 * fields[field]
    with pytest.raises(ValueError, match="changed after it was saved"):
        load(**{field: other})


def test_what_certify_returns_is_loaded(tmp_path):
    """Infinite radii of constant functions, and the margins of logits that are not finite."""
    model = keras.Sequential([keras.Input((3,)), layers.Dense(2, dtype="float64")])
    model.set_weights([np.zeros((3, 2)), np.array([1.0, 0.0])])
    x = np.array([[1.0, 0.0, 0.0], [np.nan, 0.0, 0.0], [np.inf, 0.0, 0.0]])
    with np.errstate(all="ignore"):
        found = certify(model, x)
    found.save(tmp_path / "found.npz")
    loaded = Certificates.load(tmp_path / "found.npz")
    assert found.radius[0] > 1e100 and (found.radius[1:] == 0).all()
    np.testing.assert_array_equal(loaded.radius, found.radius)
    np.testing.assert_array_equal(loaded.margin, found.margin)
    one = keras.Sequential([keras.Input((3,)), layers.Dense(1, dtype="float64")])
    signed = certify(one, np.eye(3), [1, -1, 1])
    signed.save(tmp_path / "signed.npz")
    assert set(Certificates.load(tmp_path / "signed.npz").label) <= {-1, 1}


def test_files_without_fingerprints_are_loaded_and_cannot_be_checked(content, samples):
    fields, load = content
    old = {name: value for name, value in fields.items() if "fingerprint" not in name}
    assert set(old) == {"label", "radius", "margin", "bound", "semantics", "format", "correct"}
    assert str(fields["format"]) == "deel_lip_tf certificates 1"  # which older readers know
    fields.clear()
    loaded = load(**old)
    assert loaded.model_fingerprint is None
    with pytest.raises(ValueError, match="do not say which model"):
        loaded.check(network(), samples)


def test_the_same_model_and_samples_pass(content, samples, tmp_path):
    _, load = content
    certificates, model = load(), network()
    assert certificates.check(model, samples) is certificates
    assert certificates.check(model, samples.astype("float64")) is certificates
    model.compile("sgd", "mse")
    model.trainable = False
    certificates.check(model, samples)
    network().save(tmp_path / "model.keras")
    certificates.check(keras.models.load_model(tmp_path / "model.keras"), samples)
    assert certificates.check(model, (samples[i : i + 3] for i in range(0, 8, 3)))


def trained(model):
    """One weight is the next number."""
    weights = model.get_weights()
    weights[0].flat[0] = np.nextafter(weights[0].flat[0], np.float32(9))
    model.set_weights(weights)
    return model


def rewired(kind):
    """The same layers and weights; what is called on what differs."""
    x = keras.Input((6, 6, 1))
    first, second = layers.Dense(1), layers.Dense(1)
    y = layers.Flatten()(second(first(x)) if kind else first(second(x)))
    model = keras.Model(x, layers.Dense(3)(y))
    keras.utils.set_random_seed(0)
    for layer in (first, second, model.layers[-1]):
        layer.set_weights([np.random.default_rng(1).normal(size=w.shape) for w in layer.weights])
    first.set_weights([2 * w for w in first.get_weights()])
    return model


PAIRS = {
    "weights": (network, lambda: trained(network())),
    "graph": (lambda: rewired(True), lambda: rewired(False)),
    "argument": tuple(
        (lambda s=s: keras.Sequential([keras.Input((6, 6, 1)), layers.ReLU(s), *flat()]))
        for s in (0.5, 0.6)
    ),
    "order": tuple((lambda o=o: difference(o)) for o in (1, -1)),
    "constant": tuple((lambda c=c: shifted(c)) for c in (0.5, 0.25)),
    "type": tuple((lambda t=t: typed(t)) for t in ("float32", "float64")),
    "output": tuple((lambda i=i: outputs(i)) for i in (0, 1)),
}


def flat():
    return layers.Flatten(), layers.Dense(3, kernel_initializer="ones")


def difference(order):
    """Of the same two tensors, the one or the other first."""
    x = keras.Input((6, 6, 1))
    flatten, dense = flat()
    both = [x, layers.ReLU()(x)][::order]
    return keras.Model(x, dense(flatten(layers.Subtract()(both))))


def shifted(constant):
    x = keras.Input((6, 6, 1))
    flatten, dense = flat()
    return keras.Model(x, dense(flatten(x + np.full((1, 6, 1, 1), constant, "float32"))))


def typed(dtype):
    flatten, dense = (type(x).from_config({**x.get_config(), "dtype": dtype}) for x in flat())
    return keras.Sequential([keras.Input((6, 6, 1)), flatten, dense])


def outputs(index):
    """A nested model, of which one output or the other is taken."""
    x, z = keras.Input((6, 6, 1)), keras.Input((6, 6, 1))
    flatten, dense = flat()
    inner = keras.Model(z, [dense(flatten(z)), dense(flatten(-z))])
    return keras.Model(x, inner(x)[index])


@pytest.mark.parametrize("name", PAIRS)
def test_another_model_is_refused(name, samples):
    make, other = PAIRS[name]
    found = certify(make(), samples)
    found.check(make(), samples)
    with pytest.raises(ValueError, match="`model` is not the model"):
        found.check(other(), samples)


@pytest.mark.parametrize("wrap", [lambda layer: layer, layers.TimeDistributed], ids=["", "inside"])
def test_another_setting_of_keras_is_refused(wrap, samples):
    """Normalization divides by no less than the `epsilon` of Keras at that time."""
    normalization = layers.Normalization(mean=0.0, variance=1e-4, axis=None)
    model = keras.Sequential([keras.Input((6, 6, 1)), wrap(normalization), *flat()])
    found, before = certify(model, samples).check(model, samples), keras.config.epsilon()
    try:
        keras.config.set_epsilon(1.0)
        with pytest.raises(ValueError, match="`model` is not the model"):
            found.check(model, samples)
    finally:
        keras.config.set_epsilon(before)


def test_other_samples_are_refused(content, samples):
    _, load = content
    certificates, model = load(), network()
    moved = samples.copy()
    moved[3, 2, 2] = np.nextafter(moved[3, 2, 2], np.float32(9))
    for other in (moved, samples[::-1], samples[:7], np.concatenate([samples, samples[:1]])):
        with pytest.raises(ValueError, match="`x` does not hold the samples"):
            certificates.check(model, other)
    with pytest.raises(ValueError, match="`x` must have the shape"):
        certificates.check(model, samples[:, :5])
    with pytest.raises(TypeError, match="`model`"):
        certificates.check("model", samples)

    class Other(keras.Model):
        def call(self, x):
            return x

    with pytest.raises(ValueError, match="functional"):
        certificates.check(Other(), samples)
