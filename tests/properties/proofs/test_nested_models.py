"""Every analysis follows a nested model as Keras runs it: against the numbers of the model."""

import keras
import numpy as np
import pytest

from deel_lip_tf import verify
from deel_lip_tf.bounds import lipschitz_bound
from deel_lip_tf.certificate_metrics import Certificate_Multiclass
from deel_lip_tf.certificates import certify, class_divisors
from deel_lip_tf.model import vanillaModel
from deel_lip_tf.semantics.graph import graph_of
from tests._tables.nestings import CLASSES, NESTINGS, SIZE, matrix_of

RNG = np.random.default_rng(0)
X = RNG.normal(size=(6, SIZE)).astype("float32")

# The model runs in float32; its linear map is read off differences of its outputs.
ROUNDING = 1e-4


@pytest.fixture(params=NESTINGS, scope="module")
def model(request):
    keras.utils.set_random_seed(0)
    return NESTINGS[request.param]()


def gaps(model):
    """(classes, classes, inputs) the gradients of `f_i - f_j`."""
    matrix, _ = matrix_of(model)
    return matrix.T[:, None] - matrix.T[None]


def test_the_bound_is_not_below_the_norm(model):
    matrix, _ = matrix_of(model)
    for norm, order in (("l2", 2), ("linf", np.inf), ("l1", 1)):
        true = np.linalg.norm(matrix.T, order)
        assert true * (1 - ROUNDING) <= lipschitz_bound(model, norm=norm).value


@pytest.mark.parametrize("semantics", ["real", "float32"])
@pytest.mark.parametrize("local", [False, True])
def test_radii_end_before_the_boundary(model, semantics, local):
    certificates = certify(model, X, semantics=semantics, local=local)
    outputs = np.asarray(model(X)).astype(np.float64)
    assert (certificates.label == outputs.argmax(axis=1)).all()
    margins = outputs[np.arange(len(X)), certificates.label][:, None] - outputs
    steepness = np.linalg.norm(gaps(model), axis=-1)[certificates.label]
    rivals = np.arange(CLASSES) != certificates.label[:, None]
    distances = np.where(rivals, margins / np.where(rivals, steepness, 1.0), np.inf).min(axis=1)
    assert (certificates.radius <= distances * (1 + ROUNDING) + ROUNDING).all()
    assert (certificates.radius > 0).any()


def test_divisors_and_metric(model):
    steepness = np.linalg.norm(gaps(model), axis=-1)
    divisors = class_divisors(model)
    others = ~np.eye(CLASSES, dtype=bool)
    assert (divisors[others] >= steepness[others] * (1 - ROUNDING)).all()
    metric = Certificate_Multiclass(model)
    outputs = np.asarray(model(X))
    metric.update_state(outputs.argmax(axis=1), outputs)
    assert float(metric.result()) == pytest.approx(certify(model, X).radius.mean(), rel=1e-3)


def test_verification_bounds_the_outputs(model):
    matrix, offset = matrix_of(model)
    eps = 0.1
    found = verify.bounds(model, verify.ball(X, eps, clip=None))
    center = X.astype(np.float64) @ matrix + offset
    reach = eps * np.abs(matrix).sum(axis=0)
    slack = ROUNDING * (np.abs(center) + reach + 1)
    assert (np.abs(found.lower - (center - reach)) < slack).all()
    assert (np.abs(found.upper - (center + reach)) < slack).all()


def test_verification_answers_as_the_linear_map(model):
    outputs = np.asarray(model(X)).astype(np.float64)
    label = outputs.argmax(axis=1)
    margins = outputs[np.arange(len(X)), label][:, None] - outputs
    steepness = np.abs(gaps(model)).sum(axis=-1)[label]
    rivals = np.arange(CLASSES) != label[:, None]
    eps = np.where(rivals, margins / np.where(rivals, steepness, 1.0), np.inf).min(axis=1)
    answers = verify.robustness(model, X, eps=0.98 * eps, clip=None)
    assert (answers.status == "robust").all()
    assert (verify.robustness(model, X, eps=1.05 * eps, clip=None).status == "falsified").all()


def test_exports_compute_the_same(model, tmp_path):
    expected = np.asarray(model(X))
    assert np.asarray(vanillaModel(model)(X)) == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_onnx_computes_the_same(model, tmp_path):
    onnx = pytest.importorskip("onnx")
    from onnx.reference import ReferenceEvaluator

    expected, path = np.asarray(model(X)), tmp_path / "model.onnx"
    try:
        verify.to_onnx(model, path)
    except ValueError as error:
        # Keras operations have no rule for writing; no layer of a nested model is refused.
        assert "Multiply" in str(error) or "Squeeze" in str(error)
        return
    (found,) = ReferenceEvaluator(onnx.load(path)).run(None, {"X": X})
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_no_nested_model_is_left(model):
    graph = graph_of(model)
    assert not any(isinstance(call.operation, keras.Model) for call in graph.calls)
    assert all(call.unsupported is None for call in graph.calls)
    makers = {value.call for call in graph.calls for value in call.inputs} | {None}
    assert makers <= {*graph.calls, None}
