"""Files of earlier releases: they are read for ever and mean what they meant.

`frozen/VERSION` was written by that release, see `write_frozen.py`, and is never written again.
What other tools read is in `test_frozen_formats.py`.
"""

import json
import zipfile

import keras
import numpy as np
import pytest

from deel_lip_tf import bounds, certificates
from tests._oracles.tolerances import SAME_BFLOAT16, SAME_FLOAT32, SOUND
from tests.regression.frozen_files import (
    RELEASES,
    every_compiled_file,
    every_file,
    every_release,
    frozen,
    load,
    read,
)
from tests.regression.frozen_models import MODELS, objects
from tests.regression.frozen_outputs import computed_apart
from tests.regression.public_names import arguments_of, broken, surface

pytestmark = pytest.mark.filterwarnings("ignore:.*not a 1-Lipschitz layer")

# Proofs are about the kernel that a constrained layer computes, in float32: its last bits depend on
# how TensorFlow optimized the graphs that this process traced before (see `frozen_outputs`).
NO_LOOSER, NO_LOOSER_IN_BFLOAT16 = SOUND, 1 + SAME_BFLOAT16["rtol"]


def test_releases_are_frozen():
    assert {"0.1.0"} <= {release.name for release in RELEASES}


# --- models -----------------------------------------------------------------------------------


@every_file
def test_a_model_predicts_the_same_bits(path):
    """Where TensorFlow adds up in the same order: elsewhere, as near as all evaluations of a layer.

    On this order depend the bits of TensorFlow's own results, which were frozen, too.
    """
    computed, stored = computed_apart(path.parents[1]), frozen(path, "outputs")
    tolerance = SAME_BFLOAT16 if "bfloat16" in path.stem else SAME_FLOAT32
    for number, outputs in stored.items():
        found = computed[f"{path.stem}/outputs{number}"]
        assert found.dtype == outputs.dtype
        if computed["is_same"]:
            np.testing.assert_array_equal(found, outputs)
        else:
            np.testing.assert_allclose(found, outputs, **tolerance)


@every_file
def test_bounds_get_tighter_and_not_too_tight(path):
    """`attained` is a quotient of differences that was measured in this norm."""
    model, stored = load(path), read(path.parents[1] / "bounds.json")[path.stem]
    parts = [layer for layer in model.layers if layer.name.startswith("row")] or [model]
    factor = NO_LOOSER_IN_BFLOAT16 if "bfloat16" in path.stem else NO_LOOSER
    for norm, entries in stored.items():
        for part, entry in zip(parts, entries, strict=True):
            if entry is not None:
                value = bounds.lipschitz_bound(part, norm).value
                assert entry["attained"] <= value <= entry["bound"] * factor, (part.name, norm)


@every_release
def test_measured_constants_say_something(release):
    """Most layers are measured to within a tenth of their bounds: the test above has two sides."""
    entries = [
        e for norms in read(release / "bounds.json").values() for e in sum(norms.values(), [])
    ]
    shares = [entry["attained"] / entry["bound"] for entry in entries if entry is not None]
    assert max(shares) <= 1 and np.mean(np.array(shares) > 0.9) > 0.7


@every_compiled_file
def test_training_goes_on_where_it_stood(path):
    """Learned margins and the state of the optimizer, in the order in which they are used."""
    model = load(path)
    for prefix, variables in (
        ("trainable", model.trainable_variables),
        ("optimizer", model.optimizer.variables),
    ):
        stored = frozen(path, prefix)
        assert len(variables) == len(stored)
        for number, variable in enumerate(variables):
            np.testing.assert_array_equal(variable, stored[str(number)])


@every_compiled_file
def test_losses_and_metrics_have_the_same_values(path):
    """Certificates may get larger, with tighter bounds."""
    (inputs,) = frozen(path, "inputs").values()
    y = {key.removeprefix(":"): value for key, value in frozen(path, "labels").items()}
    stored = read(path.parents[1] / "evaluations.json")[path.stem]
    found = load(path).evaluate(inputs, y.get("", y), verbose=0, return_dict=True)
    assert found.keys() == stored.keys()
    certified = {name for name in stored if name.startswith("Certifi")}
    for name in stored:
        if name not in certified or found[name] < stored[name]:
            assert found[name] == pytest.approx(stored[name], rel=1e-5, abs=1e-5), name


@every_release
def test_weights_are_loaded_into_a_model(release):
    path = release / "models" / "sequential.keras"
    model = keras.saving.load_model(path)
    for weight in model.weights:
        weight.assign(0 * weight + 1)
    model.load_weights(release / "models" / "sequential.weights.h5")
    for found, stored in zip(model.weights, load(path).weights, strict=True):
        np.testing.assert_array_equal(found, stored)


# --- names ------------------------------------------------------------------------------------


def kept(old, new) -> bool:
    """Whether every entry of a configuration is there; new ones may be, too."""
    if isinstance(old, dict):
        return isinstance(new, dict) and all(kept(old[k], new.get(k, ...)) for k in old)
    return json.dumps(old) == json.dumps(new, default=str)


@every_release
def test_configurations_make_the_same_objects(release):
    for config in read(release / "configs.json"):
        made = keras.saving.deserialize_keras_object(config)
        again = keras.saving.serialize_keras_object(made)
        assert again["registered_name"] == config["registered_name"]
        assert kept(config["config"], again["config"]), (config, again)


def registered_in(config):
    """Names in a configuration and in all that it holds."""
    if isinstance(config, dict):
        found = {config.get("registered_name") or ""}
        return found.union(*map(registered_in, config.values()))
    return set().union(*map(registered_in, config)) if isinstance(config, list) else set()


@every_release
def test_a_release_froze_every_class_that_it_registered(release):
    found = registered_in(read(release / "configs.json"))
    for path in release.glob("models/*.keras"):
        with zipfile.ZipFile(path) as archive:
            found |= registered_in(json.loads(archive.read("config.json")))
    assert set(read(release / "public_names.json")["registered"]) <= found


def test_the_next_release_will_freeze_every_class():
    kinds = {f"deel_lip_tf>{cls}" for cls in ("Model", "Sequential")}
    kinds |= {f"deel_lip_tf>LossVariable{cls}" for cls in ("Model", "Sequential")}
    made = {keras.saving.get_registered_name(type(one)) for one in objects()}
    assert made | kinds == set(surface()["registered"])
    assert {"sequential", "functional", "binary", "margins"} <= set(MODELS)


@every_release
def test_every_public_name_is_there_with_its_arguments(release):
    assert broken(read(release / "public_names.json"), surface()) == []


def before(x, y=1, *, z=2): ...


CHANGES = {
    "nothing": (before, []),
    "trailing": (lambda x, y=1, w=3, *, z=2, v=4, **more: x, []),
    "no longer by keyword alone": (lambda x, y=1, z=2: x, []),
    "order": (lambda y, x=1, *, z=2: x, ["positional", "x is gone", "y=1 is gone"]),
    "default": (lambda x, y=3, *, z=2: x, ["positional", "y=1 is gone"]),
    "inserted": (lambda x, w=0, y=1, *, z=2: x, ["positional"]),
    "by keyword alone": (lambda x, *, y=1, z=2: x, ["positional"]),
    "by position alone": (lambda x, y=1, /, *, z=2: x, ["x is by position", "y=1 is by position"]),
    "name": (lambda a, y=1, *, z=2: a, ["positional", "x is gone", "a is new"]),
    "keyword": (lambda x, y=1, *, q=2: x, ["z=2 is gone"]),
    "needed": (lambda x, y=1, *, z=2, q: x, ["q is new"]),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_breaks_a_call_is_found(change):
    after, words = CHANGES[change]
    old, new = ({"room": {"f": {"arguments": arguments_of(f)}}} for f in (before, after))
    complaints = broken(old, new)
    assert len(complaints) == len(words)
    assert all(word in complaint for word, complaint in zip(words, complaints, strict=True))


def test_a_name_that_is_gone_is_found():
    old = {"room": {"f": {"kind": "class"}, "g": {"value": 1}}}
    assert broken(old, {"room": {"f": {"kind": "function"}, "h": {}}}) == [
        ".room.g is gone",
        ".room.f.kind was 'class' and is 'function'",
    ]


# --- certificates -----------------------------------------------------------------------------


def certificate_files(release):
    return [p for p in sorted(release.glob("certificates/*.npz")) if p.stem != "samples"]


@every_release
def test_files_of_certificates_are_read(release):
    """The oracle is NumPy."""
    paths = certificate_files(release)
    assert len(paths) == 4
    for path in paths:
        found, stored = certificates.Certificates.load(path), read(path)
        for name in ("label", "radius", "margin", "bound", "semantics"):
            np.testing.assert_array_equal(getattr(found, name), stored[name])
        if "labels" in path.stem:
            np.testing.assert_array_equal(found.correct, stored["correct"])
        else:
            assert found.correct is None and "correct" not in stored
        assert found.radius.max() > 0


@every_release
def test_certified_radii_get_no_smaller(release):
    model, given = (
        load(release / "models/sequential.keras"),
        read(release / "certificates/samples.npz"),
    )
    stored = read(release / "certificates/real-labels.npz")
    found = certificates.certify(model, given["x"], given["y"])
    np.testing.assert_array_equal(found.label, stored["label"])
    np.testing.assert_array_equal(found.correct, stored["correct"])
    np.testing.assert_allclose(found.margin, stored["margin"], **SAME_FLOAT32)
    # A margin moves with the kernels, and the radius with it.
    assert (found.radius >= stored["radius"] - SAME_FLOAT32["atol"]).all()
