"""SavedModels are programs of plain TensorFlow: what they hold, and who can run them."""

import json
import os
import re
import subprocess
import sysconfig
import venv
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import deel_lip_tf as lip
from deel_lip_tf import layers
from tests._oracles.exports import by_shape, model_of, operations_of, outputs_of
from tests._tables.cases import ACTIVATIONS, LAYERS, RECURRENT, Case

SAME = dict(rtol=1e-6, atol=1e-6)
NOT_SERVED = re.compile("While|If$|Case$|Assign|PyFunc|XlaLaunch|Complex|Bitcast")
SOME = [
    Case(layers.SpectralDense, dict(units=4, activation=layers.GroupSort2())),
    Case(layers.LiResDense, dict(units=8, depth=4)),
    Case(layers.AOCConv2D, dict(filters=4, kernel_size=3), (6, 5, 3)),
    Case(layers.ScaledL2NormPooling2D, dict(pool_size=2), (6, 5, 3)),
]
pytestmark = pytest.mark.filterwarnings("ignore:.*not a 1-Lipschitz layer")


def served(model, folder):
    model.export(folder, verbose=False)
    return tf.saved_model.load(folder).signatures["serving_default"]


def run(signature, x):
    (name,) = signature.structured_input_signature[1]
    outputs = signature(**{name: x})
    return [outputs[name].numpy() for name in sorted(outputs, key=lambda n: int(n.split("_")[1]))]


def compare(cases, rng, folder):
    model = model_of(cases, rng)
    x = rng.normal(size=(3, *cases[0].shape)).astype("float32")
    wanted = outputs_of(model, x)
    for name, exported in (("model", model), ("plain", model.vanilla_export())):
        signature = served(exported, folder / name)
        found = [op for op in operations_of(signature) if NOT_SERVED.search(op)]
        assert found == [], name
        for case, mine, theirs in zip(cases, wanted, run(signature, x), strict=True):
            np.testing.assert_allclose(theirs, mine, **SAME, err_msg=f"{name}: {case}")


@pytest.mark.parametrize(("shape", "cases"), by_shape(SOME), ids=lambda x: str(x)[:9])
def test_a_model_is_exported_without_its_projections(shape, cases, rng, tmp_path):
    compare(cases, rng, tmp_path)


WITHOUT_LOOPS = [case for case in LAYERS if case not in RECURRENT[:1]]


@pytest.mark.slow
@pytest.mark.parametrize(("shape", "cases"), by_shape(WITHOUT_LOOPS), ids=lambda x: str(x)[:9])
def test_so_is_every_layer(shape, cases, rng, tmp_path):
    compare(cases, rng, tmp_path)


def test_what_was_exported_before_had_loops(rng, tmp_path):
    """Keras's own export of a model with constrained layers: what is looked for is found."""
    signature = served(keras.Model(*ends_of(model_of(SOME[:1], rng))), tmp_path)
    assert [op for op in operations_of(signature) if NOT_SERVED.search(op)] != []


def ends_of(model):
    return model.inputs, model.outputs


def test_the_signature_keeps_the_name_of_the_input(tmp_path):
    inputs = keras.Input((8,), name="pixels")
    model = lip.Sequential([inputs, layers.SpectralDense(3)])
    assert list(served(model, tmp_path).structured_input_signature[1]) == ["pixels"]


def test_augmentations_are_not_served(rng, tmp_path):
    """Keras's own export of one goes on drawing random numbers."""
    augmentation = keras.layers.RandomTranslation(0.3, 0.3, fill_mode="constant")
    body = [keras.Input((8, 8, 1)), augmentation, keras.layers.Flatten(), layers.SpectralDense(2)]
    model = lip.Sequential(body)
    x = rng.random((2, 8, 8, 1), "float32")
    for name, exported in (("model", model), ("plain", model.vanilla_export())):
        signature = served(exported, tmp_path / name)
        np.testing.assert_allclose(run(signature, x)[0], model.predict(x, verbose=0), **SAME)


class Halved(layers.SpectralDense):
    def call(self, inputs, training=None):
        return 0.5 * super().call(inputs, training=training)


def replaced():
    dense = layers.SpectralDense(3)
    dense.call = lambda inputs, training=None: 0.5 * layers.SpectralDense.call(dense, inputs)
    return dense


@keras.saving.register_keras_serializable("tests")
class Without(keras.layers.Layer):
    """Its configuration does not make another one."""

    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def call(self, inputs):
        return self.factor * inputs

    def get_config(self):
        return keras.layers.Layer.get_config(self)


@pytest.mark.parametrize("make", [lambda: Halved(3), replaced, lambda: Without(0.5)])
def test_what_a_copy_would_not_compute_is_exported_as_it_is(make, rng, tmp_path):
    model = lip.Sequential([keras.Input((8,)), make(), layers.SpectralDense(3)])
    x = rng.normal(size=(3, 8)).astype("float32")
    np.testing.assert_allclose(run(served(model, tmp_path), x)[0], model(x), rtol=1e-5, atol=1e-6)


# --- an environment in which this library is not installed ---------------------------------------

ABSENT = ("deel_lip_tf", "keras")
PROGRAM = """
import importlib.util, json, sys
import numpy as np, tensorflow as tf
missing = [name for name in ("deel_lip_tf", "keras") if importlib.util.find_spec(name) is None]
loaded = [(tf.saved_model.load(folder), np.load(folder + ".npy")) for folder in sys.argv[1:]]
served = [np.asarray(one.serve(x)).tolist() for one, x in loaded]
print(json.dumps({"missing": missing, "served": served}))
"""


def environment_without(names, folder):
    """Python of a new environment that has every installed package but those named."""
    venv.create(folder, with_pip=False)
    libraries = Path(sysconfig.get_path("purelib"))
    left_out = re.compile(rf"(__editable__[\w.]*)?({'|'.join(names)})\b|__editable__|__pycache__")
    packages = folder / "packages"
    packages.mkdir()
    for entry in libraries.iterdir():
        if not (left_out.match(entry.name) or entry.suffix == ".pth"):
            (packages / entry.name).symlink_to(entry)
    (own,) = folder.glob("lib/python*/site-packages")
    (own / "packages.pth").write_text(f"{packages}\n", encoding="utf-8")
    return folder / "bin" / "python"


def served_elsewhere(exported, tmp_path):
    """What plain TensorFlow says of `(model, inputs)`, where this library is not installed."""
    folders = [tmp_path / str(index) for index in range(len(exported))]
    for folder, (model, x) in zip(folders, exported, strict=True):
        model.export(folder, verbose=False)
        np.save(f"{folder}.npy", x)
    python = environment_without(ABSENT, tmp_path / "environment")
    command = [python, "-I", "-c", PROGRAM, *folders]
    finished = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    said = json.loads(finished.stdout.splitlines()[-1])
    assert said["missing"] == list(ABSENT)
    return [np.asarray(outputs) for outputs in said["served"]]


ELSEWHERE = pytest.mark.skipif(os.name == "nt", reason="makes links to packages")


@pytest.mark.slow
@ELSEWHERE
def test_plain_tensorflow_runs_them_where_this_library_is_not_installed(rng, tmp_path):
    shape = (6, 4, 4)
    cases = [case for case in ACTIVATIONS if case.shape[-1] % 2 == 0 or case.cls is layers.Abs]
    kinds = {case.cls: case for case in cases if not case.kwargs}.values()
    convolution = layers.SpectralConv2D(4, 3, padding="circular", activation=layers.GroupSort2())
    body = [keras.Input(shape), convolution, *(case.make() for case in kinds)]
    model = lip.Sequential([*body, keras.layers.Flatten(), layers.SpectralDense(5)])
    x = rng.normal(size=(4, *shape)).astype("float32")
    for outputs in served_elsewhere([(model, x), (model.vanilla_export(), x)], tmp_path):
        np.testing.assert_allclose(outputs, model(x), **SAME)


@pytest.mark.slow
@ELSEWHERE
def test_so_it_does_the_networks_of_all_recipes_and_of_the_zoo(rng, tmp_path):
    recipes = pytest.importorskip("benchmarks.recipes", reason="needs the benchmarks")
    models = {name: lip.zoo.load(name) for name in lip.zoo.names()}
    for name, recipe in recipes.RECIPES.items():
        shape = (32, 32, 3) if "cifar" in name else (8, 8, 1)
        x, y = rng.random((2, *shape), "float32"), np.zeros(2, "int32")
        models[name] = recipe.model(recipes.Images(name, x, y, x, y))
    inputs = [rng.random((16, *model.input_shape[1:]), "float32") for model in models.values()]
    exports = [model.vanilla_export() for model in models.values()]
    said = served_elsewhere(list(zip(exports, inputs, strict=True)), tmp_path)
    for (name, model), x, outputs in zip(models.items(), inputs, said, strict=True):
        wanted = model.predict(x, verbose=0)
        np.testing.assert_allclose(outputs, wanted, rtol=1e-5, atol=1e-5, err_msg=name)
        assert (outputs.argmax(-1) == wanted.argmax(-1)).all(), name
        assert np.ptp(wanted, axis=0).max() > 1e-3, name
