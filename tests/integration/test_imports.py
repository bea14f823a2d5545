"""Who may import whom, and what importing the package costs."""

import ast
import importlib
import os
import subprocess
import sys
import types
import warnings
from pathlib import Path

import keras
import pytest

import deel_lip_tf
import deel_lip_tf as lip

PACKAGE = Path(deel_lip_tf.__file__).parent

# Each room with the rooms it may import, besides itself, and besides `_files`, `_lazy`,
# `_registration`, `_tables` and `_validation`, which everybody may. Each command is a room, and so
# are the metrics that prove.
LAYERS = {"normalizers", "constraints", "initializers", "regularizers", "layers"}
PROOFS = LAYERS | {"model", "semantics", "errors", "_keras", "_rounding"}
COMMAND = {"cli.arguments", "cli.quiet"}
ALLOWED = {
    "_registration": set(),
    "_files": set(),
    "_lazy": set(),
    "_tables": set(),
    "_validation": set(),
    "_keras": set(),
    "_rounding": set(),
    "errors": set(),
    "plots": set(),
    "normalizers": {"_keras"},
    "constraints": {"normalizers", "_keras"},
    "initializers": {"normalizers"},
    "regularizers": {"normalizers"},
    "distribute": {"constraints", "_keras"},
    "losses": {"distribute", "_keras"},
    "metrics": {"losses", "_keras"},
    "callbacks": {"_keras", "bounds", "certificates", "plots"},
    "optimizers": {"layers", "normalizers", "_keras"},
    "layers": {
        *("normalizers", "constraints", "initializers", "regularizers"),
        *("distribute", "_keras"),
    },
    "semantics": LAYERS | {"errors", "_keras", "_rounding"},
    "formats": LAYERS | {"semantics", "_keras"},
    "model": PROOFS - {"model"} | {"distribute"},
    "bounds": PROOFS | {"plots"},
    "certificates": PROOFS | {"bounds", "plots"},
    "metrics.certified": {"certificates", "losses", "metrics", "_keras"},
    "certificate_metrics": {"metrics.certified"},
    "activations": {"layers"},
    "compute_layer_sv": {"estimates"},
    "estimates": PROOFS | {"bounds", "losses"},
    "utils": {"estimates", "losses"},
    "checking": set(),
    "training": {"semantics", "errors", "_keras"},
    "verify": PROOFS | {"bounds", "certificates", "checking", "formats", "plots"},
    "zoo": set(),
    "cli": set(),
    "cli.arguments": set(),
    "cli.quiet": set(),
    "cli.quickstart": PROOFS | COMMAND | {"bounds", "certificates", "losses", "plots"},
    "cli.hunt": PROOFS | COMMAND | {"bounds", "certificates", "cli.quickstart"},
    "cli.verify": COMMAND | {"checking", "formats", "verify"},
    "cli.check_proof": COMMAND | {"checking"},
    "__main__": {"cli.arguments", "cli.quickstart", "cli.hunt", "cli.verify", "cli.check_proof"},
}


def room_at(parts):
    """The room of a module, given as the parts of its name below the package."""
    is_finer = parts[0] == "cli" or list(parts[:2]) == ["metrics", "certified"]
    return ".".join(parts[:2]) if is_finer else parts[0]


class _Executed(ast.NodeTransformer):
    def visit_If(self, node):
        return None if ast.unparse(node.test) == "TYPE_CHECKING" else self.generic_visit(node)


def rooms_imported(source):
    """The parts of the package that a module imports, at its top or inside its functions.

    What only type checkers import is not counted.
    """
    nodes = list(ast.walk(_Executed().visit(ast.parse(source))))
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
        - {room, "_files", "_lazy", "_registration", "_tables", "_validation", "__version__"}
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
        ("checking", "from deel_lip_tf.formats.onnx.graph import loaded", {"formats"}),
        ("cli.quickstart", "from deel_lip_tf.cli import hunt", {"cli.hunt"}),
        ("losses", "if True:\n    from deel_lip_tf import layers", {"layers"}),
        ("losses", "if TYPE_CHECKING:\n    from deel_lip_tf import layers", set()),
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


LIGHT = (
    "import deel_lip_tf",
    "import deel_lip_tf.verify, deel_lip_tf.formats",
    "from deel_lip_tf.verify.specification.vnnlib import read_vnnlib",
    "import deel_lip_tf.formats.onnx.graph, deel_lip_tf.semantics.ir.decompositions",
    "import deel_lip_tf.__main__",
    "from deel_lip_tf.checking.proof import check",
)


@pytest.mark.parametrize("statement", LIGHT)
def test_what_needs_no_keras_imports_none(statement):
    code = f"{statement}; import sys; print({{'keras', 'tensorflow', 'jax'}} & set(sys.modules))"
    assert run_python(code).strip() == "set()"


def test_searching_needs_no_onnx():
    code = "import sys; sys.modules['onnx'] = None; import deel_lip_tf.verify.search.inputs.decide"
    assert run_python(code + ", deel_lip_tf.verify.files; print('done')").strip() == "done"


IN_ANY_ORDER = (
    "import deel_lip_tf, keras",
    "from deel_lip_tf.layers.dense import SpectralDense; import keras",
    *(
        pytest.param(statements, marks=pytest.mark.slow)
        for statements in (
            "import keras, deel_lip_tf",
            "import deel_lip_tf as lip; lip.verify; import keras",
            "import deel_lip_tf as lip; lip.Sequential; import keras",
            "import deel_lip_tf.semantics.functions; import keras",
            "from deel_lip_tf import *; import keras",
        )
    ),
)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A model of which each part must be found by its registered name."""
    folder = tmp_path_factory.mktemp("registered")
    regularizer = lip.regularizers.OrthDenseRegularizer()
    dense = lip.layers.SpectralDense(2, kernel_regularizer=regularizer)
    model = lip.Sequential(
        [keras.Input((3,)), dense, lip.layers.MaxMin(), lip.layers.SpectralDense(1)]
    )
    model.compile("sgd", lip.losses.HKR(alpha=2.0), [lip.metrics.KR()])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Keras advises against its own older format
        for suffix in ("keras", "h5"):
            model.save(folder / f"model.{suffix}")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("statements", IN_ANY_ORDER)
def test_files_load_in_whatever_order_the_packages_are_imported(statements, saved):
    load = "print(type(keras.models.load_model({!r}).loss).__name__)"
    paths = [str(saved / f"model.{suffix}") for suffix in ("keras", "h5")]
    assert run_python("; ".join([statements, *map(load.format, paths)])).split() == ["HKR", "HKR"]


WATCHED = """
import importlib.util, inspect, sys
import deel_lip_tf
watch = sys.meta_path[0]
print(watch.find_spec("json", None))
print(importlib.util.find_spec("deel_lip_tf._rounding").loader.is_package("deel_lip_tf._rounding"))
from deel_lip_tf import errors
print(errors.__spec__.loader is errors.__loader__, bool(inspect.getsource(errors)))
import keras
print(watch in sys.meta_path)
"""


def test_a_watch_changes_nothing_else():
    """Loaders are in their place again, and it is gone once Keras is there."""
    assert run_python(WATCHED).split() == ["None", "False", "True", "True", "False"]


def test_rooms_inside_rooms_and_shortcuts_are_found_without_another_import():
    code = (
        "import deel_lip_tf as lip; print(lip.verify.decomon.models.convert, "
        "lip.verify.figures.status_figure, lip.certify is lip.certificates.certify, "
        "lip.lipschitz_bound is lip.bounds.lipschitz_bound)"
    )
    assert run_python(code).endswith("True True\n")


def test_rooms_behind_the_public_ones_are_found():
    code = (
        "import deel_lip_tf as lip; print(lip.errors.UnsupportedLayerError, lip.cli, lip.semantics)"
    )
    assert "UnsupportedLayerError" in run_python(code)
    code = "import deel_lip_tf as lip; print(lip.model.gap_constants, lip.estimates)"
    assert "gap_constants" in run_python(code)


def test_what_is_lazy_is_listed():
    code = "import deel_lip_tf as lip; print({*lip.__all__} - {*dir(lip)}, lip.nothing)"
    with pytest.raises(AssertionError, match="has no attribute 'nothing'"):
        run_python(code)
    code = "import deel_lip_tf as lip; print({*lip.__all__} - {*dir(lip)})"
    assert run_python(code).strip() == "set()"


ROOM_NAMES = (
    *("activations", "bounds", "callbacks", "certificate_metrics", "certificates"),
    *("compute_layer_sv", "constraints", "distribute", "initializers", "layers", "losses"),
    *("metrics", "model", "normalizers", "optimizers", "plots", "regularizers", "training"),
    *("utils", "verify", "zoo"),
)
OF_METRICS = {"Certificate_Binary", "Certificate_Multiclass", "CertifiedRobustAccuracy"}
ALSO_SHOWN = {"losses": OF_METRICS}


def test_every_room_of_the_package_is_looked_at():
    modules = {name for name in lip.__all__ if isinstance(getattr(lip, name), types.ModuleType)}
    assert modules == set(ROOM_NAMES)


@pytest.mark.parametrize(
    "room", ["", *ROOM_NAMES, "verify.decomon", "verify.decomon.models", "verify.figures"]
)
def test_completion_shows_public_names_and_nothing_else(room):
    module = importlib.import_module(f"deel_lip_tf.{room}".rstrip("."))
    shown = {name for name in dir(module) if not name.startswith("__")}
    assert shown - ALSO_SHOWN.get(room, set()) == set(module.__all__)
    assert all(hasattr(module, name) for name in shown)


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


def test_a_plain_import_leaves_the_environment_alone():
    code = (
        "import os; import keras; between = dict(os.environ); "
        "import deel_lip_tf; print(dict(os.environ) == between)"
    )
    assert run_python(code).strip() == "True"
