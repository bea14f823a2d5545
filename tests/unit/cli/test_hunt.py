"""The hunt finds a planted fault, and nothing where there is none."""

import keras
import numpy as np
import pytest

import deel_lip_tf as lip
from deel_lip_tf import certificates
from deel_lip_tf.__main__ import main
from deel_lip_tf.bounds import propagation as graph
from deel_lip_tf.cli.hunt import job, searches
from deel_lip_tf.cli.hunt.inputs import extreme_inputs
from deel_lip_tf.cli.hunt.referee import Referee, distance
from deel_lip_tf.cli.hunt.target import Finding, Target, under_policy
from deel_lip_tf.normalizers import Operation
from tests._tables.cancelling import cancelling_model

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="the hunt differentiates with TensorFlow"
)


def isometry_of_patches(k=3):
    size = k * k
    return np.linalg.qr(np.random.default_rng(k).normal(size=(size, size)))[0].reshape(k, k, 1, -1)


def network(kernel=None, with_head=True):
    """A convolution over 5x5 images, whose inner pixels lie in 9 patches, the average in 6.76."""
    head = [lip.layers.SpectralDense(16, activation="relu"), lip.layers.SpectralDense(3)]
    model = lip.Sequential(
        [
            keras.Input((5, 5, 1)),
            lip.layers.SpectralConv2D(9, 3, use_bias=False),
            keras.layers.Flatten(),
            *(head if with_head else []),
        ]
    )
    model.layers[0].kernel.assign(isometry_of_patches() if kernel is None else kernel)
    return model


def average_overlap(self):
    """The coefficient of deel-lip: the average number of patches, see test_soundness.py."""
    if not self.kernel_size:
        return ()
    n, k = self.sizes[0], self.kernel_size[0]
    half = (k - 1) / 2
    return (k - half * (half + 1) / n,) * 2


def trusting(layer, *arguments, **keywords):
    """What every other library does: a constrained layer is believed to keep its promise."""
    if hasattr(type(layer), "effective_kernel"):
        return layer.k_coef_lip, "believed"
    return honest_bound(layer, *arguments, **keywords)


honest_bound = graph.layer_bound
PROMISES = "promises of single layers"


def hunt(model, x=None, policies=(), rounds=1, without=("foolbox attacks",), seed=0):
    rng = np.random.default_rng(seed)
    x = rng.uniform(size=(30, *model.input_shape[1:])) if x is None else x
    limited = {name: s for name, s in searches.SEARCHES.items() if name not in without}
    calls = iter(range(10**6))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job, "SEARCHES", limited)
        patch.setattr(job, "has_foolbox", lambda: True)
        return job.hunt(model, x, rng, lambda start: next(calls) >= rounds - 1, policies)


def test_a_sound_network_is_not_refuted():
    report = hunt(network(), policies=("mixed_bfloat16",), rounds=1)
    assert report.findings == []
    assert {policy for policy, _ in report.tried} == {"float32", "mixed_bfloat16"}
    # and the searches come near what is proved
    assert 0.99 < report.best["float32", "promises of single layers"] <= 1 + 1e-9
    assert all(best <= 1 + 1e-9 for best in report.best.values())
    text = str(report)
    assert "inputs tried" in text and "claims refuted: 0" in text


def test_a_layer_that_runs_otherwise_is_found(monkeypatch):
    """The float32 program of one kind of layer computes something else than it says."""
    true = keras.layers.Flatten.call

    def call(self, inputs):
        outputs = true(self, inputs)
        return outputs + (0.05 if outputs.dtype == "float32" else 0.0)

    model = network()
    monkeypatch.setattr(keras.layers.Flatten, "call", call)
    with pytest.warns(RuntimeWarning, match="Flatten"):
        report = hunt(model)
    assert any("'flatten" in finding.claim for finding in report.findings)


def test_a_layer_with_the_average_overlap_is_found(monkeypatch):
    """The bound sees the kernel, so the certificates stay true; the layer's promise does not."""
    monkeypatch.setattr(Operation, "patch_counts", property(average_overlap))
    report = hunt(network())
    (claim,) = {finding.claim for finding in report.findings}
    assert claim.startswith("Lipschitz constant of layer 'spectral_conv2d")
    assert max(f.found for f in report.findings) == pytest.approx(15 / 13, rel=1e-3)


def test_certificates_that_believe_it_are_refuted(monkeypatch):
    monkeypatch.setattr(Operation, "patch_counts", property(average_overlap))
    monkeypatch.setattr(graph, "layer_bound", trusting)
    report = hunt(network(with_head=False), rounds=12, without=("foolbox attacks", PROMISES))
    found = {finding.claim for finding in report.findings}
    assert "Lipschitz constant of the outputs" in found


def test_a_radius_that_is_too_large_is_found(monkeypatch):
    honest = certificates.certify

    def boastful(*arguments, **keywords):
        found = honest(*arguments, **keywords)
        return type(found)(**{**found.__dict__, "radius": 3 * found.radius})

    from deel_lip_tf.cli.hunt import target

    model = network()
    rng = np.random.default_rng(0)
    monkeypatch.setattr(target, "certify", boastful)
    x = rng.uniform(size=(30, 5, 5, 1))
    hunted = Target.of("float32", model, x)
    findings = [f for _ in range(3) for f in searches.descent(hunted, rng).findings]
    assert {finding.claim for finding in findings} == {"certified radius"}
    assert {finding.semantics for finding in findings} == {"real", "float32"}
    assert all(finding.found < finding.claimed for finding in findings)


@pytest.mark.filterwarnings("ignore:At .* the model itself differs")  # at inputs of its searches
def test_a_flip_by_rounding_refutes_the_float32_claim_alone(monkeypatch):
    """The exact certificate is true although float32 breaks it: the referee tells them apart."""
    model, x = cancelling_model(0.02, np.random.default_rng(0))
    x = x[None].astype(float)
    assert hunt(model, x, rounds=2).findings == []
    # The same radius claimed for the float32 program is refuted.
    real = certificates.certify(model, x)
    from deel_lip_tf.cli.hunt import target

    monkeypatch.setattr(target, "certify", lambda *a, **k: real)
    rng = np.random.default_rng(0)
    hunted = Target.of("float32", model, x)
    outcomes = [search(hunted, rng) for search in (searches.descent, searches.rounding) * 5]
    findings = [finding for outcome in outcomes for finding in outcome.findings]
    assert findings and {finding.semantics for finding in findings} == {"float32"}


def test_that_huge_inputs_overflow_is_no_warning():
    """Warnings are errors in tests: a user would read of a fault to be reported."""
    rng = np.random.default_rng(0)
    model = under_policy(network(), "mixed_float16")
    hunted = Target.of("mixed_float16", model, rng.uniform(size=(4, 5, 5, 1)))
    outcome = searches.SEARCHES["extreme inputs"](hunted, rng)
    assert outcome.tried > 50 and outcome.findings == []


WEIGHTS = {
    "isometry of patches": lambda rng: isometry_of_patches(),
    "rank one": lambda rng: np.ones((3, 3, 1, 1)) * rng.normal(size=9),
    "huge": lambda rng: 1e30 * rng.normal(size=(3, 3, 1, 9)),
    "tiny": lambda rng: 1e-30 * rng.normal(size=(3, 3, 1, 9)),
    "zero": lambda rng: np.zeros((3, 3, 1, 9)),
    "one large": lambda rng: np.eye(9).reshape(3, 3, 1, 9) * np.r_[1e6, np.ones(8)],
}


# Numbers near the ends of float32: the model overflows, and what is not claimed then is said.
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.slow
@pytest.mark.parametrize(("name", "scale"), list(zip(WEIGHTS, [1.0, 1e12, 1e-12] * 2, strict=True)))
def test_adversarial_weights(name, scale, rng):
    """Constrained and plain convolutions, heads of every scale, biases that nearly cancel."""
    kernel = WEIGHTS[name](rng)
    plain = keras.Sequential(
        [
            keras.Input((5, 5, 1)),
            keras.layers.Conv2D(9, 3, padding="same", activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(3),
        ]
    )
    head = scale * rng.normal(size=(225, 3))
    plain.set_weights([kernel, np.zeros(9), head, np.zeros(3)])
    logits = np.asarray(plain(rng.uniform(size=(1, 5, 5, 1))))[0]
    if np.isfinite(logits).all():
        plain.layers[-1].bias.assign(logits.max() - logits)
    constrained = network(kernel)
    constrained.layers[-1].set_klip_factor(scale)
    for model in (plain, constrained):
        assert hunt(model, without=("foolbox attacks", PROMISES)).findings == []


def saved(tmp_path, model):
    path = tmp_path / "model.keras"
    model.save(path)
    return str(path)


@pytest.mark.slow
def test_the_command_on_a_sound_model(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(job, "has_foolbox", lambda: False)
    monkeypatch.setattr(job, "POLICIES", ("float64",))
    out = tmp_path / "out"
    arguments = ["hunt", saved(tmp_path, network()), "--minutes", "0.001", "--out", str(out)]
    assert main(arguments) == 0
    text = capsys.readouterr().out
    assert "claims refuted: 0" in text and "expansion of the outputs" in text
    assert "left out: foolbox attacks" in text
    assert not out.exists()


def test_the_command_on_a_false_claim_writes_what_shows_it(tmp_path, capsys, monkeypatch):
    path = saved(tmp_path, network(with_head=False))
    monkeypatch.setattr(job, "has_foolbox", lambda: False)
    monkeypatch.setattr(job, "POLICIES", ("float64",))
    monkeypatch.setattr(Operation, "patch_counts", property(average_overlap))
    out = tmp_path / "out"
    assert main(["hunt", path, "--minutes", "0.001", "--out", str(out), "--seed", "3"]) == 1
    assert "REFUTED: Lipschitz constant of layer" in capsys.readouterr().out
    with np.load(out / "refuted_0.npz", allow_pickle=False) as archive:
        content = dict(archive)
    assert content["seed"] == 3 and str(content["semantics"]) == "real"
    # what it shows can be seen again without the hunt
    layer = keras.models.load_model(path).layers[0].vanilla_export()
    images = np.stack([content["x"], content["other"]]).astype("float32")
    a, b = np.asarray(layer(images), np.float64)
    ratio = np.linalg.norm(a - b) / np.linalg.norm(content["x"] - content["other"])
    assert ratio == pytest.approx(content["found"], rel=1e-4) and ratio > content["claimed"]


def bad_inputs(tmp_path):
    (tmp_path / "text.keras").write_text("no model")
    yield ["hunt", str(tmp_path / "none.keras")], "there is no file"
    yield ["hunt", str(tmp_path / "text.keras")], "cannot load"
    softmax = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, activation="softmax")])
    softmax.save(tmp_path / "softmax.keras")
    yield ["hunt", str(tmp_path / "softmax.keras")], "must return logits"
    free = keras.Sequential(
        [keras.Input((None, None, 1)), keras.layers.GlobalMaxPool2D(), keras.layers.Dense(2)]
    )
    free.save(tmp_path / "free.keras")
    yield ["hunt", str(tmp_path / "free.keras")], "fixed sizes"
    network().save(tmp_path / "good.keras")
    yield ["hunt", str(tmp_path / "good.keras"), "--data", "digits"], "the model takes"
    yield ["hunt", str(tmp_path / "good.keras"), "--data", "nowhere.npz"], "no file"


def test_bad_input_is_one_line(tmp_path, capsys):
    pytest.importorskip("sklearn")
    for arguments, message in bad_inputs(tmp_path):
        assert main([*arguments, "--minutes", "0.001"]) == 2
        error = capsys.readouterr().err
        assert message in error and len(error.splitlines()) == 1


@pytest.mark.parametrize("policy", ["float64", "mixed_bfloat16", "mixed_float16"])
def test_the_referee_is_the_function_of_the_rounded_weights(policy, rng):
    model = under_policy(network(), policy)
    x = rng.uniform(size=(4, 5, 5, 1))
    walk = graph.LipschitzPropagation()
    walk.model(model)
    from deel_lip_tf.bounds.evaluation.model import Float64Evaluator

    expected, _ = Float64Evaluator(model, walk)(x)
    assert Referee(model).outputs(x) == pytest.approx(expected, rel=1e-9)
    assert all(layer.dtype_policy.name == policy for layer in model.layers)


def test_distances_neither_overflow_nor_vanish():
    a, b = np.array([[3e200, 0.0], [3e-200, 0.0]]), np.array([[0.0, 4e200], [0.0, 4e-200]])
    assert distance(a, b) == pytest.approx([5e200, 5e-200])


def test_extreme_inputs_hold_every_kind(rng):
    x = extreme_inputs((2, 3), rng)
    flat = x.reshape(len(x), -1)
    assert np.isnan(flat).any() and np.isinf(flat).any() and (flat == 5e-324).any()
    assert (np.abs(flat) == 1e30).any() and (flat == 0).all(axis=1).any()


def test_a_finding_says_under_which_semantics():
    finding = Finding("radius", "float32", "mixed_bfloat16", np.zeros(1), np.zeros(1), 2.0, 1.0)
    assert "semantics float32, policy mixed_bfloat16" in str(finding)
