"""Writes the files of one release, which every later release has to read: run once, at a release.

    python -m tests.regression.write_frozen VERSION

makes `tests/regression/frozen/VERSION` with

- `models/*.keras`: models of `frozen_models`, and `sequential.weights.h5`; `models.npz`: what they
  are given, what they compute and what they have learned; `bounds.json`: proven Lipschitz constants
  with what was measured from below; `evaluations.json`;
- `configs.json`, `public_names.json`: objects of every registered class, and every public name;
- `certificates/*.npz`, `onnx/*.onnx`, `vnnlib/*.vnnlib`, `saved_model/`, each with the numbers that
  were read from it;
- `arithmetic.json`: how this machine rounds.

`test_frozen.py` says what is owed to them.
"""

import argparse
import json
import os
import re
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import keras
import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

import deel_lip_tf as lip
from deel_lip_tf import bounds, certificates, verify
from tests.regression.arithmetic import arithmetic
from tests.regression.frozen_files import FOLDER, numbered
from tests.regression.frozen_models import GROUPS, MODELS, branches, labels, objects, samples
from tests.regression.public_names import surface

NORMS = {"l2": 2, "linf": np.inf, "l1": 1}
ERRORS = {"bfloat16": 5e-2}  # of an output, as in `tolerances`; 1e-5 for float32
VNNLIB = {"1.0": 0.02, "2.0": 3.0}  # radius by version of the format
PROOFS = ("ibp", "crown")


def write(folder: Path) -> None:
    """Everything into a new folder."""
    folder.mkdir()
    write_json(folder / "arithmetic.json", arithmetic())
    write_json(folder / "public_names.json", surface())
    write_json(folder / "configs.json", [keras.saving.serialize_keras_object(o) for o in objects()])
    made = write_models(folder)
    write_certificates(folder / "certificates", made["sequential"])
    write_onnx(folder / "onnx", {name: made[name] for name in ("margins", "exported")})
    write_vnnlib(folder / "vnnlib", made["margins"])
    write_saved_model(folder / "saved_model", made["exported"])


def write_json(path: Path, content) -> None:
    """Lists of numbers and words on one line each. No string of JSON holds a line break."""
    text = json.dumps(content, indent=1, ensure_ascii=False)
    text = re.sub(r"\[[^][{}]*\]", lambda found: re.sub(r"\n *", " ", found[0]), text)
    path.write_text(text + "\n", encoding="utf-8")


# --- models -----------------------------------------------------------------------------------


def write_models(folder: Path) -> dict[str, keras.Model]:
    (folder / "models").mkdir()
    made, values, proven, evaluations = {}, {}, {}, {}
    for name in (*GROUPS, *MODELS):
        keras.backend.clear_session()
        keras.utils.set_random_seed(0)
        model = made[name] = branches(name) if name in GROUPS else MODELS[name]()
        model.save(folder / "models" / f"{name}.keras")
        found = values_of(model)
        values |= {f"{name}/{key}": value for key, value in found.items()}
        proven[name] = {norm: constants(model, found["inputs"], norm) for norm in NORMS}
        if model.compiled:
            y = labels(model, np.random.default_rng(2), len(found["inputs"]))
            values |= {f"{name}/labels{key}": value for key, value in named(y).items()}
            evaluations[name] = model.evaluate(found["inputs"], y, verbose=0, return_dict=True)
    made["sequential"].save_weights(folder / "models" / "sequential.weights.h5")
    np.savez_compressed(folder / "models.npz", **values)
    write_json(folder / "bounds.json", proven)
    write_json(folder / "evaluations.json", evaluations)
    return made


def named(y) -> dict:
    """Labels by the name of their output, which a model of one output does not need."""
    return {f":{key}": value for key, value in y.items()} if isinstance(y, dict) else {"": y}


def values_of(model) -> dict[str, np.ndarray]:
    x = samples(model, np.random.default_rng(3), 6 if model.compiled else 2)
    found = {"inputs": x, **numbered("outputs", model(x))}
    if model.compiled:
        found |= numbered("trainable", model.trainable_variables)
        found |= numbered("optimizer", model.optimizer.variables)
    return found


def constants(model, x, norm: str) -> list[dict[str, float] | None]:
    """Of each row of a group or of the whole model; None where there is no bound."""
    rows = [layer for layer in model.layers if layer.name.startswith("row")]
    return [_constant(part, x[:1], norm) for part in rows or [model]]


def _constant(part, x, norm: str) -> dict[str, float] | None:
    try:
        bound = bounds.lipschitz_bound(part, norm).value
    except ValueError:
        return None
    return {"bound": bound, "attained": attained(part, x, norm)}


def attained(function, x, norm: str) -> float:
    """A quotient `||f(x + d) - f(x)|| / ||d||`, less what rounding may have added to it.

    d is the best direction of the linear function through the outputs near x: any other would do
    for a lower estimate, but for a linear layer this one attains its constant.
    """

    def values(batch):
        outputs = keras.tree.flatten(function(keras.ops.convert_to_tensor(batch.astype(x.dtype))))
        numpy = [keras.ops.convert_to_numpy(keras.ops.cast(o, "float64")) for o in outputs]
        return np.concatenate([o.reshape(len(batch), -1) for o in numpy], axis=1)

    step = 0.25
    moved = x + step * np.eye(x.size).reshape(-1, *x.shape[1:])
    matrix = ((values(moved) - values(x)) / step).T
    d = steepest(matrix, norm).reshape(x.shape)
    pair = values(np.concatenate([x, x + d]))
    # the step that was taken, in the type of the input
    taken = (x + d).astype(x.dtype).astype("float64") - x
    error = ERRORS.get(function.compute_dtype, 1e-5) * (1.0 + np.abs(pair)).sum(axis=0)
    order = NORMS[norm]
    difference = np.linalg.norm(pair[1] - pair[0], order) - np.linalg.norm(error, order)
    return max(0.0, float(difference / np.linalg.norm(taken.ravel(), order)))


def steepest(matrix: np.ndarray, norm: str) -> np.ndarray:
    """A vector that a matrix stretches most."""
    if norm == "l2":
        return np.linalg.svd(matrix)[2][0]
    if norm == "linf":
        return np.sign(matrix[np.abs(matrix).sum(axis=1).argmax()])
    return np.eye(matrix.shape[1])[np.abs(matrix).sum(axis=0).argmax()]


# --- certificates and other formats -----------------------------------------------------------


def write_certificates(folder: Path, model) -> None:
    folder.mkdir()
    rng = np.random.default_rng(4)
    x = samples(model, rng, 20)
    y = labels(model, rng, 20).argmax(axis=1)
    np.savez_compressed(folder / "samples.npz", x=x, y=y)
    for semantics in ("real", "float32"):
        certificates.certify(model, x, semantics=semantics).save(folder / f"{semantics}.npz")
        with_labels = certificates.certify(model, x, y, semantics=semantics)
        with_labels.save(folder / f"{semantics}-labels.npz")


def write_onnx(folder: Path, models: dict) -> None:
    """Files, what ONNX's own evaluator computes from them, and bounds of what is read back."""
    folder.mkdir()
    for name, model in models.items():
        path = folder / f"{name}.onnx"
        verify.to_onnx(model, path)
        x = samples(model, np.random.default_rng(5), 6)
        (outputs,) = ReferenceEvaluator(onnx.load(path)).run(None, {"X": x})
        domain, read = verify.box(x - 0.1, x + 0.1), verify.from_onnx(path)
        found = {"x": x, "outputs": outputs}
        for method in PROOFS:
            proven = verify.bounds(read, domain, method=method)
            found |= {f"{method} lower": proven.lower, f"{method} upper": proven.upper}
        np.savez_compressed(folder / f"{name}.npz", **found)


def write_vnnlib(folder: Path, model) -> None:
    folder.mkdir()
    x = samples(model, np.random.default_rng(6), 1)
    label = int(keras.ops.convert_to_numpy(model(x))[0].argmax())
    radii = {f"eps {version}": eps for version, eps in VNNLIB.items()}
    np.savez_compressed(folder / "question.npz", x=x[0], label=label, **radii)
    for version, eps in VNNLIB.items():
        path = folder / f"{version}.vnnlib"
        verify.to_vnnlib(path, model, x[0], label, eps, clip=None, version=version)
        status = verify.decide(model, verify.read_vnnlib(path), time_limit=60).status
        (folder / f"{version}.answer").write_text(status + "\n", encoding="utf-8")


def write_saved_model(folder: Path, model) -> None:
    model.export(folder, verbose=False)
    x = samples(model, np.random.default_rng(7), 6)
    np.savez_compressed(folder.with_suffix(".npz"), x=x, outputs=np.asarray(model(x)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("version", help="of the release, which must be the one that is imported")
    version = parser.parse_args().version
    if version != lip.__version__:
        parser.error(f"`version` must be {lip.__version__}, the present one. Received: {version}.")
    if (FOLDER / version).exists():
        parser.error(f"{FOLDER / version} is there: what is frozen is never written again.")
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=FOLDER) as unfinished:
        write(Path(unfinished) / version)
        (Path(unfinished) / version).rename(FOLDER / version)


if __name__ == "__main__":
    main()
