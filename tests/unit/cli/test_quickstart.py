"""The main job: its pieces on plain Keras models, and its errors. Whole runs are elsewhere."""

import dataclasses
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest

from deel_lip_tf.bounds import lipschitz_bound
from deel_lip_tf.cli.arguments import BadInput
from deel_lip_tf.cli.quickstart import attacks, data, export, figures, network, report
from tests._tables.quickstart_inputs import arrays, run_in_process, saved

pytestmark = pytest.mark.usefixtures("unoptimized_graphs")

pytest.importorskip("foolbox", reason="needs the demo extra")
pytest.importorskip("matplotlib", reason="needs the demo extra")
pytest.importorskip("sklearn", reason="needs the demo extra")


# --- data ------------------------------------------------------------------------------------


def test_digits_are_all_there_and_a_quarter_is_held_out():
    digits = data.load("digits")
    assert digits.image_shape == (8, 8, 1) and digits.classes == 10
    assert len(digits.x_train) + len(digits.x_test) == 1797
    assert len(digits.x_test) == 450
    assert digits.x_train.min() == 0 and digits.x_train.max() == 1
    seen = {image.tobytes() for image in digits.x_train}
    assert not any(image.tobytes() in seen for image in digits.x_test)


FLOATS = np.linspace(0, 1, 12 * 20).reshape(12, 5, 4)

GOOD = {
    "uint8": ({}, 1 / 255),
    "float64": ({"x_train": FLOATS}, 1),
    "float16": ({"x_train": FLOATS.astype(np.float16)}, 1),
    "colours": (arrays(size=(5, 4, 3)), 1 / 255),
    "column of labels": ({"y_train": (np.arange(12) % 3)[:, None]}, 1 / 255),
    "unsigned labels": ({"y_train": (np.arange(12) % 3).astype(np.uint8)}, 1 / 255),
}


@pytest.mark.parametrize("name", GOOD)
def test_good_files_are_scaled_and_shaped(name, tmp_path):
    replaced, scale = GOOD[name]
    content = arrays(**replaced)
    loaded = data.load(saved(tmp_path, **content))
    raw = content["x_train"].astype(np.float64)
    expected = (raw if raw.ndim == 4 else raw[..., None]) * scale
    assert loaded.x_train.dtype == np.float32
    np.testing.assert_allclose(loaded.x_train, expected, rtol=1e-6)
    np.testing.assert_array_equal(loaded.y_train, np.arange(12) % 3)
    assert loaded.classes == 3


NAN = np.where(np.arange(240).reshape(12, 5, 4) == 7, np.nan, 0.5)
OBJECTS = np.array([None] * 12)

BAD_ARRAYS = {
    "flat images": ({"x_train": np.zeros((12, 20))}, "x_train must be images of shape"),
    "five axes": ({"x_test": np.zeros((6, 5, 4, 1, 1))}, "x_test must be images of shape"),
    "no images": ({"x_test": np.zeros((0, 5, 4))}, "x_test must be images of shape"),
    "unscaled floats": ({"x_train": FLOATS * 255}, "they must lie in [0, 1]"),
    "negative floats": ({"x_train": FLOATS - 0.5}, "they must lie in [0, 1]"),
    "int64 pixels": ({"x_train": np.zeros((12, 5, 4), int)}, "must be uint8 (0 to 255) or floats"),
    "NaN": ({"x_train": NAN}, "NaN or infinite"),
    "infinity": ({"x_test": np.full((6, 5, 4), np.inf)}, "NaN or infinite"),
    "too few labels": ({"y_train": np.arange(11) % 3}, "12 images, y_train has 11 labels"),
    "one-hot labels": ({"y_train": np.eye(3)[np.arange(12) % 3]}, "must be integer labels"),
    "float labels": ({"y_train": np.arange(12) % 3 + 0.0}, "must be integer labels"),
    "labels from 1": ({"y_train": np.arange(12) % 3 + 1}, "got labels 1, 2, 3"),
    "a class left out": ({"y_train": np.arange(12) % 3 * 2}, "got labels 0, 2, 4"),
    "negative labels": ({"y_train": np.arange(12) % 3 - 1}, "got labels -1, 0, 1"),
    "one class": ({"y_train": np.zeros(12, int)}, "at least two"),
    "unseen class": ({"y_test": np.full(6, 7)}, "y_test holds label 7"),
    "two sizes": ({"x_test": np.zeros((6, 5, 5), np.uint8)}, "those of x_test (5, 5, 1)"),
    "objects": ({"y_train": OBJECTS}, "cannot read"),
}


@pytest.mark.parametrize("name", BAD_ARRAYS)
def test_bad_arrays_are_refused_by_name(name, tmp_path):
    replaced, message = BAD_ARRAYS[name]
    with pytest.raises(BadInput, match=re.escape(message)):
        data.load(saved(tmp_path, **arrays(**replaced)))


def test_missing_keys_are_named_with_what_is_there(tmp_path):
    content = arrays()
    content["images"] = content.pop("x_train")
    with pytest.raises(BadInput, match=r"lacks x_train; .* holds .*images"):
        data.load(saved(tmp_path, **content))


def test_further_arrays_of_a_file_are_left_alone(tmp_path):
    assert data.load(saved(tmp_path, **arrays(), extra=OBJECTS)).classes == 3


class FakeDatasets:
    """Stands for tensorflow_datasets: no test needs a network."""

    def __init__(self, fails=False):
        self.fails = fails

    def load(self, name, split, batch_size, as_supervised):
        if self.fails:
            raise OSError("no\nroute to host")
        content = arrays(size=(28, 28, 1) if name == "mnist" else (32, 32, 3))
        parts = {part: (content[f"x_{part}"], content[f"y_{part}"]) for part in ("train", "test")}
        return [parts[part] for part in split]

    def as_numpy(self, parts):
        return parts


@pytest.mark.parametrize(("name", "shape"), [("mnist", (28, 28, 1)), ("cifar10", (32, 32, 3))])
def test_named_data_come_from_tensorflow_datasets(name, shape, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", FakeDatasets())
    monkeypatch.setitem(sys.modules, "importlib_resources", SimpleNamespace())
    loaded = data.load(name)
    assert loaded.image_shape == shape and loaded.name == name
    assert loaded.x_train.min() >= 0 and loaded.x_train.max() <= 1


def test_a_failing_download_is_one_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", FakeDatasets(fails=True))
    monkeypatch.setitem(sys.modules, "importlib_resources", SimpleNamespace())
    with pytest.raises(BadInput, match="cannot load .mnist.: give a FILE.npz"):
        data.load("mnist")


# --- network ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "filters"),
    [
        ((1, 1, 1), [32, 128]),
        ((8, 8, 1), [32, 128]),
        ((17, 3, 1), [32, 64, 128]),
        ((28, 28, 1), [32, 64, 128]),
        ((32, 32, 3), [32, 64, 128]),
        ((64, 33, 3), [32, 64, 64, 128]),
    ],
)
def test_convolutions_halve_the_image_until_it_is_small(shape, filters):
    assert network.stage_filters(shape) == filters


@pytest.mark.parametrize("loss", network.LOSS_ARGUMENTS)
def test_the_network_is_1_lipschitz_and_convolutional(loss):
    small = data.validated("small", arrays(size=(7, 5, 3)))
    model = network.build(small, loss, epochs=1)
    bound = lipschitz_bound(model)
    assert 0.99 < bound.value < 1 + 1e-5
    assert "spectral_conv2d" in " ".join(layer.name for layer in bound.per_layer)
    assert model.output_shape == (None, 3)


# --- errors of the command --------------------------------------------------------------------


def unzipped(folder):
    path = folder / "broken.npz"
    path.write_bytes(b"not an archive")
    return path


def occupied(folder):
    path = folder / "a_file"
    path.write_text("in the way")
    return path


BAD_COMMANDS = {
    "no command": lambda d: [],
    "unknown command": lambda d: ["train"],
    "unknown option": lambda d: ["quickstart", "--bogus"],
    "abbreviated option": lambda d: ["quickstart", "--epo", "3"],
    "unknown loss": lambda d: ["quickstart", "--loss", "mse"],
    "zero epochs": lambda d: ["quickstart", "--epochs", "0"],
    "half an epoch": lambda d: ["quickstart", "--epochs", "0.5"],
    "negative seed": lambda d: ["quickstart", "--seed", "-1"],
    "huge seed": lambda d: ["quickstart", "--seed", str(2**32)],
    "unknown data": lambda d: ["quickstart", "--data", "imagenet"],
    "missing file": lambda d: ["quickstart", "--data", str(d / "none.npz")],
    "file that is a folder": lambda d: ["quickstart", "--data", folder_named(d, "x.npz")],
    "no archive": lambda d: ["quickstart", "--data", str(unzipped(d))],
    "wrong keys": lambda d: ["quickstart", "--data", saved(d, a=np.zeros(3))],
    "wrong shapes": lambda d: ["quickstart", "--data", saved(d, **arrays(y_test=np.arange(2)))],
    "folder under a file": lambda d: ["quickstart", "--out", str(occupied(d) / "out")],
    "folder that is a file": lambda d: ["quickstart", "--out", str(occupied(d))],
}


def folder_named(parent, name):
    (parent / name).mkdir()
    return str(parent / name)


@pytest.mark.parametrize("name", BAD_COMMANDS)
def test_bad_input_is_one_line_and_exit_code_2(name, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(network, "train", lambda *_: pytest.fail("training started"))
    assert run_in_process(BAD_COMMANDS[name](tmp_path)) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert len(printed.err.splitlines()) == 1
    assert printed.err.startswith("python -m deel_lip_tf: error: ")


@pytest.mark.parametrize("module", ["foolbox", "matplotlib", "sklearn"])
def test_a_missing_extra_is_one_line_with_the_command_that_mends_it(module, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    assert run_in_process(["quickstart"]) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    assert module in error and "pip install 'deel_lip_tf[demo]'" in error


def test_missing_tensorflow_datasets_names_its_own_extra(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    monkeypatch.setitem(sys.modules, "importlib_resources", SimpleNamespace())
    assert run_in_process(["quickstart", "--data", "mnist"]) == 2
    assert "pip install 'deel_lip_tf[datasets]'" in capsys.readouterr().err


def test_another_backend_is_refused(capsys, monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    assert run_in_process(["quickstart"]) == 2
    assert "KERAS_BACKEND=tensorflow" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--help"], ["quickstart", "--help"], ["--version"]])
def test_help_and_version_leave_with_0(arguments, capsys):
    assert run_in_process(arguments) == 0
    assert capsys.readouterr().out


# --- attacks ----------------------------------------------------------------------------------


def half_plane(images):
    """Label 1 where the first pixel exceeds 0.5: distances are known in closed form."""
    return (images[:, 0] > 0.5).astype(int)


def test_nearest_finds_the_boundary_along_the_segment():
    x = np.array([[0.2, 0.0], [0.4, 0.0], [0.1, 0.0]], np.float32)
    far = np.array([[1.0, 0.0], [0.9, 0.0], [0.3, 0.0]], np.float32)
    farther = np.array([[1.0, 1.0], [0.9, np.nan], [0.2, 0.0]], np.float32)
    found = attacks.nearest("test", x, half_plane(x), [farther, far], half_plane)
    # Bisection leaves at most 2**-12 of the segments, which are shorter than 1.
    np.testing.assert_allclose(found.distance[:2], [0.3, 0.1], atol=2**-12)
    assert found.distance[2] == np.inf
    assert (half_plane(found.adversarial[:2]) == 1).all()
    np.testing.assert_array_equal(found.adversarial[2], x[2])
    measured = np.linalg.norm(found.adversarial.astype(float) - x.astype(float), axis=1)
    np.testing.assert_allclose(found.distance[:2], measured[:2], rtol=1e-12)


def test_only_examples_strictly_inside_the_radius_break_a_certificate():
    attack = attacks.Attack("test", np.zeros((4, 1)), np.array([0.5, 0.5, 0.5, np.inf]))
    broken = attack.broken(np.array([0.5, np.nextafter(0.5, 1), 0.4, np.inf]))
    np.testing.assert_array_equal(broken, [False, True, False, False])


@pytest.fixture(scope="module")
def linear_model():
    """Two classes, logits (x0, 1 - x0): the distance to the boundary is |x0 - 1/2|."""
    model = keras.Sequential(
        [keras.Input((2, 2, 1)), keras.layers.Flatten(), keras.layers.Dense(2)]
    )
    kernel = np.zeros((4, 2))
    kernel[0] = [1, -1]
    model.layers[-1].set_weights([kernel, np.array([0.0, 1.0])])
    return model


def linear_images(count=8):
    x = np.random.default_rng(0).uniform(0.1, 0.9, (count, 2, 2, 1)).astype(np.float32)
    return x, np.where(x[:, 0, 0, 0] > 0.5, 0, 1)


@pytest.mark.slow
def test_all_attacks_find_the_boundary_of_a_linear_model(linear_model):
    keras.utils.set_random_seed(0)
    x, label = linear_images()
    exact = np.abs(x[:, 0, 0, 0].astype(float) - 0.5)
    found = attacks.run_attacks(linear_model, linear_model, x, label)
    assert [attack.name for attack in found] == ["PGD", "DeepFool", "Carlini-Wagner"]
    for attack in found:
        # Nothing gets closer than the boundary, up to float32 rounding of the logits.
        assert (attack.distance >= exact - 1e-6).all(), attack.name
    np.testing.assert_allclose(found[1].distance, exact, atol=1e-3)
    nearest = report.Attacked(len(x), x, exact, found).nearest()
    np.testing.assert_allclose(nearest.distance, exact, atol=1e-3)
    overstated = report.Attacked(len(x), x, exact + 0.01, found)
    assert overstated.broken == len(x)
    assert report.Attacked(len(x), x, exact - 1e-6, found).broken == 0


def test_the_model_decides_and_not_what_foolbox_saw(linear_model):
    """foolbox is given another model: its examples fool that one, and count for nothing here."""
    x, label = linear_images()
    constant = keras.models.clone_model(linear_model)
    constant.layers[-1].set_weights([np.zeros((4, 2)), np.array([0.0, 1.0])])
    ones = label == 1
    found = attacks.run_attacks(constant, linear_model, x[ones], label[ones])
    assert all(np.isinf(attack.distance).all() for attack in found)


# --- report, figures, export ------------------------------------------------------------------


def an_attacked(broken=False, empty=False):
    x, _ = linear_images(3)
    distance = np.array([0.4, 0.2, np.inf])
    found = [attacks.Attack("PGD", np.clip(x + 0.1, 0, 1), distance)]
    found.append(attacks.Attack("DeepFool", x, np.full(3, 0.3)))
    radius = np.array([0.1, 0.25 if broken else 0.15, 0.0])
    if empty:
        return report.Attacked(4, x[:0], radius[:0], [])
    return report.Attacked(4, x, radius, found)


def results(attacked):
    layer = SimpleNamespace(name="dense", value=0.5, method="method")
    return report.Results(
        title="title",
        settings="settings",
        bound=SimpleNamespace(value=0.75, per_layer=[layer]),
        test_images=4,
        clean_accuracy=0.75,
        certified_accuracy=[0.5] * len(report.RADII),
        attacked=attacked,
        comparison=export.Comparison(Path("saved_model"), 1e-7, 1.0, 4, 4),
        files=[Path("a.png")],
    )


@pytest.mark.parametrize(
    ("attacked", "verdict"),
    [
        (an_attacked(), "certificates broken: 0 of 3"),
        (an_attacked(broken=True), "certificates broken: 1 of 3"),
        (an_attacked(empty=True), "certificates broken: 0 of 0"),
    ],
)
def test_the_page_tells_the_verdict_and_the_bounds(attacked, verdict):
    page = report.page(results(attacked))
    assert verdict in page.splitlines()
    assert re.search(r"dense +0\.5000000 +method", page)
    assert re.search(r"the model +0\.7500000", page)
    assert "Clean accuracy 75.00% on 4" in page
    assert max(map(len, page.splitlines())) <= 120


def test_where_few_images_are_attacked_their_own_certificates_stand_beside():
    few = report.page(dataclasses.replace(results(an_attacked()), test_images=5))
    assert "certified of 4" in few
    assert "certified of" not in report.page(results(an_attacked()))


def test_accuracies_are_shares_of_all_drawn_images():
    attacked = an_attacked()
    pgd, deepfool = attacked.attacks
    assert attacked.certified_accuracy(0.12) == 1 / 4
    assert attacked.certified_accuracy(0.1) == 2 / 4
    assert attacked.robust_accuracy(pgd, 0.2) == 3 / 4
    assert attacked.robust_accuracy(pgd, 0.3) == 2 / 4
    assert attacked.robust_accuracy(deepfool, 0.31) == 0
    np.testing.assert_array_equal(attacked.nearest().distance, [0.3, 0.2, 0.3])


@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize("count", [0, 1, 9])
def test_figures_are_drawn_for_any_number_of_images_and_channels(channels, count, tmp_path):
    x = np.random.default_rng(0).uniform(size=(count, 4, 5, channels)).astype(np.float32)
    found = [attacks.Attack("PGD", 1 - x, np.linspace(0.1, 1, count))] if count else []
    attacked = report.Attacked(10, x, np.full(count, 0.05), found)
    figures.draw_certificates(attacked, tmp_path / "certificates.png")
    figures.draw_adversarials(attacked, tmp_path / "adversarials.png")
    for name in ("certificates.png", "adversarials.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_export_compares_the_reloaded_model_with_the_trained_one(linear_model, tmp_path):
    x, _ = linear_images(300)
    same = export.export_and_compare(linear_model, linear_model, tmp_path / "same", x)
    assert same.equal and same.agreeing == same.images == 300
    other = keras.models.clone_model(linear_model)
    other.layers[-1].set_weights([-w for w in linear_model.layers[-1].get_weights()])
    different = export.export_and_compare(linear_model, other, tmp_path / "different", x)
    assert not different.equal and different.agreeing < 300
    logits = lambda model: np.asarray(model(x)).astype(float)  # noqa: E731
    expected = np.abs(logits(linear_model) - logits(other)).max()
    np.testing.assert_allclose(different.difference, expected, rtol=1e-6)


def test_a_nan_is_never_equal():
    assert not export.Comparison(Path("m"), float("nan"), 1.0, 4, 4).equal
