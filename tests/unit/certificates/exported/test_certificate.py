"""A certificate is beside the export it is about, and beside no other."""

import hashlib
import json

import keras
import numpy as np
import pytest

import deel_lip_tf as lip
from deel_lip_tf.certificates import export_certificate, load
from tests.conftest import ON_TENSORFLOW


def network(seed=0, outputs=3):
    keras.utils.set_random_seed(seed)
    hidden = lip.layers.SpectralDense(4, lip.layers.GroupSort2(), name="hidden")
    head = lip.layers.SpectralDense(outputs, name="head")
    return lip.Sequential([keras.Input((6,)), hidden, head], k_coef_lip=3.0)


def as_saved_model(model, folder):
    path = folder / "served"
    model.export(path, verbose=False)
    return path


def as_keras(model, folder):
    path = folder / "model.keras"
    model.vanilla_export().save(path)
    return path


def as_onnx(model, folder):
    pytest.importorskip("onnx", reason="needs the verify extra")
    path = folder / "model.onnx"
    lip.verify.to_onnx(model, path)
    return path


def as_litert(model, folder):
    path = folder / "model.tflite"
    model.export(path, format="litert", verbose=False)
    return path


WRITERS = [as_saved_model, as_keras, as_onnx, as_litert] if ON_TENSORFLOW else [as_keras]
every_kind = pytest.mark.parametrize("write", WRITERS)


@every_kind
def test_what_is_written_is_loaded(write, tmp_path):
    model = network()
    path = write(model, tmp_path)
    written = export_certificate(model, path, input_scale=1 / 255)
    found = load(path)
    assert found == written
    assert found.bound == lip.bounds.lipschitz_bound(model)
    assert [layer.name for layer in found.bound.per_layer] == ["hidden", "head"]
    assert found.raw_constant >= found.bound.value / 255
    assert found.raw_constant == pytest.approx(3 / 255)
    assert found.check(network()) is found
    assert "head" in str(found) and "stored weights" in str(found)


@every_kind
def test_an_export_of_another_model_gets_none(write, tmp_path):
    path = write(network(seed=1), tmp_path)
    with pytest.raises(ValueError, match="Export the model again"):
        export_certificate(network(), path)
    with pytest.raises(ValueError, match="Export the model again|cannot be run"):
        export_certificate(network(seed=1, outputs=2), path)
    with pytest.raises(ValueError, match="certificate beside it.*is not there"):
        load(path)


@pytest.mark.parametrize("bias", [1e2, 1e5])
@pytest.mark.parametrize("change", [lambda kernel: 1.05 * kernel, np.float16])
def test_another_kernel_does_not_hide_beside_a_bias(bias, change, tmp_path):
    model = lip.Sequential([keras.Input((6,)), keras.layers.Rescaling(1 / 255)])
    model.add(lip.layers.SpectralDense(3, bias_initializer=keras.initializers.Constant(bias)))
    plain = model.vanilla_export()
    plain.save(tmp_path / "same.keras")
    export_certificate(model, tmp_path / "same.keras")
    kernel = plain.layers[-1].kernel
    kernel.assign(np.asarray(change(np.asarray(kernel)), np.float32))
    plain.save(tmp_path / "other.keras")
    with pytest.raises(ValueError, match="Export the model again"):
        export_certificate(model, tmp_path / "other.keras")


def test_weights_in_a_file_beside_the_onnx_file_are_refused(tmp_path):
    """They could be replaced, and the hash would still be that of the graph."""
    onnx = pytest.importorskip("onnx", reason="needs the verify extra")
    model = network()
    whole = onnx.load(as_onnx(model, tmp_path))
    path = tmp_path / "parts.onnx"
    onnx.save(whole, path, save_as_external_data=True, location="weights", size_threshold=0)
    with pytest.raises(ValueError, match="weights lie in another file.*onnx.save"):
        export_certificate(model, path)
    onnx.save(onnx.load(path), path)
    written = export_certificate(model, path)
    assert load(path) == written


@pytest.mark.parametrize("name", ["a.keras", "a.onnx", "a.tflite", "a/saved_model.pb"])
def test_what_cannot_be_read_is_refused(name, tmp_path):
    if not ON_TENSORFLOW and not name.endswith(".keras"):
        pytest.skip("is read by TensorFlow, or by onnx")
    if name.endswith(".onnx"):
        pytest.importorskip("onnx", reason="needs the verify extra")
    (tmp_path / "a").mkdir()
    (tmp_path / name).write_bytes(b"nothing")
    with pytest.raises(ValueError, match="which cannot be run"):
        export_certificate(network(), tmp_path / name.removesuffix("/saved_model.pb"))


@every_kind
def test_another_export_in_its_place_is_refused(write, tmp_path):
    model = network()
    path = write(model, tmp_path)
    export_certificate(model, path)
    write(network(seed=1), tmp_path)
    with pytest.raises(ValueError, match="was changed or replaced"):
        load(path)


@pytest.mark.skipif(not ON_TENSORFLOW, reason="writes a SavedModel")
def test_one_weight_of_a_saved_model_counts_and_what_serving_adds_does_not(tmp_path):
    model = network()
    path = as_saved_model(model, tmp_path)
    written = export_certificate(model, path)
    (path / "assets.extra").mkdir()
    (path / "assets.extra" / "warmup").write_bytes(b"requests")
    assert load(path) == written
    other = path / "saved_model.cpb"
    other.write_bytes(b"a graph in another form")
    with pytest.raises(ValueError, match="was changed or replaced"):
        load(path)
    other.unlink()
    (data,) = (path / "variables").glob("*.data-*")
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 1
    data.write_bytes(content)
    with pytest.raises(ValueError, match="was changed or replaced"):
        load(path)


def test_the_model_of_a_certificate_is_checked(tmp_path):
    model = network()
    path = as_keras(model, tmp_path)
    certificate = export_certificate(model, path)
    model.layers[0].bias.assign(np.full(4, 1e-3))
    with pytest.raises(ValueError, match="not the model of this certificate"):
        certificate.check(model)
    with pytest.raises(TypeError, match="`model` must be a Keras model"):
        certificate.check(path)


def rewritten(change):
    def apply(text):
        content = json.loads(text)
        change(content)
        return json.dumps(content)

    return apply


def signed(**values):
    """Values that no certificate has, with the hash that belongs to them."""

    def change(content):
        content.pop("certificate_sha256")
        content.update(values)
        text = json.dumps(content, sort_keys=True)
        content["certificate_sha256"] = hashlib.sha256(text.encode()).hexdigest()

    return rewritten(change)


CHANGED = {
    "a negative bound": signed(bound=-1.0),
    "no number for a bound": signed(bound=float("nan")),
    "another semantics": signed(semantics="float8"),
    "another norm": signed(norm="l7"),
    "no scale": signed(input_scale=None),
    "a smaller bound": rewritten(lambda content: content.update(bound=0.1)),
    "a smaller layer": rewritten(lambda content: content["layers"][0].update(value=0.1)),
    "another export": rewritten(lambda content: content.update(export_sha256="0" * 64)),
    "a field less": rewritten(lambda content: content.pop("semantics")),
    "a later format": rewritten(lambda content: content.update(format="2")),
    "no hash": rewritten(lambda content: content.pop("certificate_sha256")),
    "a list": lambda text: "[]",
    "cut off": lambda text: text[:-20],
    "no text": lambda text: "\0",
}


@pytest.mark.parametrize("name", CHANGED)
def test_a_certificate_that_was_changed_is_refused(name, tmp_path):
    model = network()
    path = as_keras(model, tmp_path)
    export_certificate(model, path)
    beside = tmp_path / "model.keras.certificate.json"
    beside.write_text(CHANGED[name](beside.read_text(encoding="utf-8")), encoding="utf-8")
    with pytest.raises(ValueError, match="certificate beside it.*Call `export_certificate"):
        load(path)


@pytest.mark.parametrize(
    ("name", "reason"),
    [("nothing", "is not there"), ("folder", "is none of these"), ("text.txt", "is none of these")],
)
def test_what_is_no_export_is_refused(name, reason, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "text.txt").write_text("text", encoding="utf-8")
    with pytest.raises(ValueError, match=f"`path` must be an export.*{reason}"):
        export_certificate(network(), tmp_path / name)
    with pytest.raises(ValueError, match=f"`path` must be an export.*{reason}"):
        load(tmp_path / name)


def test_what_is_given_is_checked(tmp_path):
    model = network()
    path = as_keras(model, tmp_path)
    with pytest.raises(ValueError, match="`input_scale` must be positive"):
        export_certificate(model, path, input_scale=0.0)
    with pytest.raises(TypeError, match="`model` must be a Keras model"):
        export_certificate(path, model)
    inputs = keras.Input((6,))
    unbounded = keras.Model(inputs, keras.ops.square(inputs))
    with pytest.raises(ValueError, match=r"No Lipschitz bound is known for: 'square(_\d+)?'"):
        export_certificate(unbounded, path)
