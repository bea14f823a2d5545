"""The report: what it holds, that its lower estimates are lower, and that they find the truth."""

import json

import keras
import numpy as np
import pytest
from keras import layers

from deel_lip_tf import layers as lip
from deel_lip_tf.bounds import Report, lipschitz_bound, report


def convolutional():
    return keras.Sequential(
        [
            keras.Input((6, 6, 1)),
            lip.SpectralConv2D(4, 3, name="first"),
            lip.GroupSort2(),
            lip.ScaledL2NormPooling2D(2),
            layers.Flatten(),
            lip.SpectralDense(3, name="head"),
        ]
    )


def linear(matrix):
    model = keras.Sequential([keras.Input((len(matrix),)), layers.Dense(len(matrix[0]))])
    model.layers[0].kernel.assign(matrix)
    return model


def test_the_numbers_fit_together():
    model = convolutional()
    result = report(model, samples=3, steps=12)
    assert isinstance(result, Report)
    assert result.bound.value == lipschitz_bound(model).value
    assert result.product == pytest.approx(result.bound.value, rel=1e-12)
    assert 0 < result.jacobian <= result.bound.value
    assert 0 < result.attack <= result.bound.value
    assert result.slack == result.bound.value / max(result.jacobian, result.attack)


def test_a_linear_model_is_found_exactly(rng):
    matrix = rng.standard_normal((5, 4))
    result = report(linear(matrix), samples=2, steps=60)
    norm = np.linalg.norm(np.float32(matrix).astype(float), 2)
    assert norm * (1 - 1e-4) <= result.jacobian <= result.bound.value
    assert 1.0 <= result.slack <= 1.0 + 1e-4


def test_as_dict_is_json():
    values = report(convolutional(), samples=1, steps=6).as_dict()
    assert json.loads(json.dumps(values)) == values
    assert [layer["name"] for layer in values["layers"]][0] == "first"
    assert set(values["layers"][0]) == {"name", "type", "bound", "method", "seconds"}
    assert all(layer["seconds"] >= 0 for layer in values["layers"])


def test_the_text_has_a_line_for_each_layer_and_number():
    text = str(report(convolutional(), samples=1, steps=6))
    for part in ("first", "SpectralConv2D", "head", "proven upper bound", "Jacobian", "slack"):
        assert part in text
    assert "not searched" in str(report(convolutional(), samples=0))


def test_the_figure_has_a_bar_for_each_layer(tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is an extra")
    figure = report(convolutional(), samples=0).figure()
    assert len(figure.axes[0].patches) == 5
    figure.savefig(tmp_path / "report.png")
    assert (tmp_path / "report.png").stat().st_size > 1000


def test_several_inputs_are_bounded_and_not_searched():
    x, y = keras.Input((3,)), keras.Input((3,))
    result = report(keras.Model([x, y], layers.Add()([x, y])))
    assert result.lower is None
    assert result.slack is None
    assert result.bound.value == pytest.approx(np.sqrt(2))


def test_wrong_arguments():
    for arguments in ({"samples": -1}, {"steps": 1.5}, {"samples": True}):
        with pytest.raises(ValueError, match=next(iter(arguments))):
            report(convolutional(), **arguments)
    with pytest.raises(ValueError, match="`x` must be an array"):
        report(convolutional(), np.zeros((2, 5)))
    with pytest.raises(TypeError, match="Keras layer or model"):
        report(3)
