"""Who may import whom, and what importing the package costs."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import deel_lip_tf

PACKAGE = Path(deel_lip_tf.__file__).parent

# Each room with the rooms it may import, besides itself, and besides `_registration` and
# `_validation`, which everybody may. Each command is a room, and so are the metrics that prove.
LAYERS = {"normalizers", "constraints", "initializers", "regularizers", "layers"}
PROOFS = LAYERS | {"model", "semantics", "errors", "_keras", "_rounding"}
ALLOWED = {
    "_registration": set(),
    "_lazy": set(),
    "_validation": set(),
    "_keras": set(),
    "_rounding": set(),
    "errors": set(),
    "normalizers": set(),
    "constraints": {"normalizers"},
    "initializers": {"normalizers"},
    "regularizers": {"normalizers"},
    "losses": {"_lazy"},
    "metrics": {"losses", "_lazy"},
    "callbacks": set(),
    "layers": {"normalizers", "constraints", "initializers", "regularizers", "_keras"},
    "semantics": LAYERS | {"errors", "_keras", "_rounding"},
    "formats": LAYERS | {"semantics", "_keras"},
    "model": PROOFS - {"model"},
    "bounds": PROOFS,
    "certificates": PROOFS | {"bounds"},
    "metrics.certified": {"certificates", "losses", "metrics"},
    "certificate_metrics": {"metrics.certified"},
    "activations": {"layers"},
    "compute_layer_sv": {"estimates"},
    "estimates": PROOFS | {"bounds", "losses"},
    "utils": {"estimates", "losses"},
    "verify": PROOFS | {"bounds", "certificates", "formats"},
    "cli": set(),
    "cli.arguments": set(),
    "cli.quiet": set(),
    "cli.quickstart": PROOFS | {"cli.arguments", "bounds", "certificates", "losses"},
    "cli.hunt": PROOFS | {"cli.arguments", "bounds", "certificates", "cli.quickstart"},
    "cli.verify": {"cli.arguments", "formats", "verify"},
    "__main__": {"cli.arguments", "cli.quickstart", "cli.hunt", "cli.verify"},
}


def room_at(parts):
    """The room of a module, given as the parts of its name below the package."""
    is_finer = parts[0] == "cli" or list(parts[:2]) == ["metrics", "certified"]
    return ".".join(parts[:2]) if is_finer else parts[0]


def rooms_imported(source):
    """The parts of the package that a module imports, at its top or inside its functions."""
    nodes = list(ast.walk(ast.parse(source)))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    for node in nodes:
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports inside the package are written in full"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    parts = [name.split(".") for name in names]
    return {room_at(part[1:]) for part in parts if part[0] == "deel_lip_tf" and len(part) > 1}


def forbidden(room, source):
    return (
        rooms_imported(source)
        - ALLOWED[room]
        - {room, "_registration", "_validation", "__version__"}
    )


def room_of(module):
    parts = module.relative_to(PACKAGE).with_suffix("").parts
    return room_at([part for part in parts if part != "__init__"])


MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE)
MODULES += sorted(path for path in PACKAGE.glob("*.py") if path.name != "__init__.py")


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_arrows_point_one_way(module):
    assert forbidden(room_of(module), module.read_text(encoding="utf-8")) == set()


@pytest.mark.parametrize(
    ("room", "source", "found"),
    [
        ("layers", "from deel_lip_tf.model import Sequential", {"model"}),
        ("layers", "def f():\n    import deel_lip_tf.bounds.norms.fourier", {"bounds"}),
        ("losses", "from deel_lip_tf import layers as l, metrics", {"layers", "metrics"}),
        ("normalizers", "from deel_lip_tf.layers.base import LipschitzLayer", {"layers"}),
        ("layers", "from deel_lip_tf.semantics.rule import rule_for", {"semantics"}),
        ("bounds", "from deel_lip_tf.certificates import certify", {"certificates"}),
        ("verify", "from deel_lip_tf.cli.arguments import BadInput", {"cli.arguments"}),
        ("formats", "from deel_lip_tf.verify.program import Builder", {"verify"}),
        ("cli.quickstart", "from deel_lip_tf.cli import hunt", {"cli.hunt"}),
        ("model", "from deel_lip_tf.semantics import rule", set()),
        ("losses", "from deel_lip_tf.metrics.certified import _Certified", {"metrics.certified"}),
        ("metrics", "from deel_lip_tf.metrics import certified", {"metrics.certified"}),
        ("metrics", "from deel_lip_tf.metrics import kr", set()),
        ("model", "from deel_lip_tf.layers import known", set()),
    ],
)
def test_an_arrow_that_points_back_is_found(room, source, found):
    assert forbidden(room, source) == found


def run_python(code):
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(PACKAGE.parent)},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_pulls_in_no_extra():
    """Keras itself imports some of them where they are installed; that is not counted."""
    code = (
        "import sys, keras; before = set(sys.modules); import deel_lip_tf; "
        "print(*set(sys.modules) - before)"
    )
    added = {name.split(".")[0] for name in run_python(code).split()}
    extras = {"sklearn", "matplotlib", "foolbox", "tensorboard", "tensorflow_datasets"}
    assert "deel_lip_tf" in added
    assert extras.isdisjoint(added)


@pytest.mark.slow
def test_importing_costs_little_more_than_importing_keras():
    code = (
        "import keras, time; start = time.process_time(); import deel_lip_tf; "
        "print(time.process_time() - start)"
    )
    # The least of three: other processes can only make it slower.
    assert min(float(run_python(code)) for _ in range(3)) < 0.2


def test_a_plain_import_leaves_the_environment_alone():
    code = (
        "import os; import keras; between = dict(os.environ); "
        "import deel_lip_tf; print(dict(os.environ) == between)"
    )
    assert run_python(code).strip() == "True"
