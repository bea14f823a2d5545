"""The rules of the house that a reader of the code may rely on. What is listed may only shrink."""

import ast
import dataclasses
import importlib
import inspect
import operator
import re
from pathlib import Path

import pytest

import deel_lip_tf
from deel_lip_tf.layers.constrained import ConstrainedKernel

PACKAGE = Path(deel_lip_tf.__file__).parent
MODULES = {
    path.relative_to(PACKAGE).as_posix(): path.read_text(encoding="utf-8")
    for path in sorted(PACKAGE.rglob("*.py"))
}

# --- what is inside of Keras and TensorFlow -----------------------------------------------------

INTERNALS = re.compile(
    r"\b(_keras_history|_inbound_nodes|_autocast|_flatten_layers|keras\.src|tensorflow\.python)\b"
)


def test_internals_of_keras_and_tensorflow_are_in_one_module():
    found = {name for name, source in MODULES.items() if INTERNALS.search(source)}
    assert found == {"_keras.py"}


@pytest.mark.parametrize(
    "line",
    [
        "operation, index, _ = tensor._keras_history",
        "from keras.src.ops import core",
        'if type(operation).__module__.startswith("keras.src.ops."):',
        "from tensorflow.python.eager import context",
        "for layer in model._flatten_layers():",
    ],
)
def test_an_internal_name_is_found(line):
    assert INTERNALS.search(line)


@pytest.mark.parametrize("line", ["import keras", "import tensorflow as tf", "my_keras_history"])
def test_a_public_name_is_not(line):
    assert not INTERNALS.search(line)


# --- slow cases ---------------------------------------------------------------------------------

TESTS = Path(__file__).parents[1]
LISTED = [
    line
    for line in (TESTS / "slow.txt").read_text(encoding="utf-8").splitlines()
    if not line.startswith("#")
]


def test_slow_cases_are_cases_of_tests_that_there_are():
    """A test that was renamed would come back into the fast run unseen."""
    gone = []
    for line in LISTED:
        file, name = line.split("::")[:2]
        path = TESTS.parent / file
        source = path.read_text(encoding="utf-8") if path.is_file() else ""
        gone += [] if f"def {name.split('[')[0]}(" in source else [line]
    assert gone == [] and len(set(LISTED)) == len(LISTED)


# --- folders ------------------------------------------------------------------------------------

# Modules of a folder, besides `__init__` and those that only give a second name to what stands
# elsewhere. Twelve can be seen at a glance.
AT_A_GLANCE = 12
ALIASES = {"activations.py", "certificate_metrics.py", "compute_layer_sv.py", "utils.py"}


def is_alias(source):
    """Whether a module is its docstring, imports and `__all__`."""
    first, *others = ast.parse(source).body
    return isinstance(first, ast.Expr) and all(
        isinstance(one, ast.ImportFrom)
        or (isinstance(one, ast.Assign) and ast.unparse(one.targets[0]) == "__all__")
        for one in others
    )


def test_the_second_names_are_known():
    assert {name for name, source in MODULES.items() if "/" not in name and is_alias(source)} == (
        ALIASES
    )
    assert not is_alias('"""One."""\nfrom a import b\n__all__ = ["b"]\nb.c = 1')


def modules_in_folders():
    counts: dict[str, int] = {}
    for name in MODULES:
        folder = Path(name).parent.as_posix()
        is_counted = not name.endswith("__init__.py") and name not in ALIASES
        counts[folder] = counts.get(folder, 0) + is_counted
    return counts


def test_no_folder_grows_beyond_a_glance():
    counts = modules_in_folders()
    assert {folder: count for folder, count in counts.items() if count > AT_A_GLANCE} == {}


# --- docstrings ---------------------------------------------------------------------------------

ROOMS = (
    *("activations", "bounds", "callbacks", "certificate_metrics", "certificates"),
    *("compute_layer_sv", "constraints", "distribute", "initializers", "layers", "losses"),
    *("metrics", "model", "normalizers", "optimizers", "plots", "regularizers", "training"),
    *("utils", "verify"),
    *("verify.decomon", "verify.figures", "zoo"),
)


def public_objects():
    """The classes and functions of the public rooms, each once."""
    found = {}
    for room in ROOMS:
        module = importlib.import_module(f"deel_lip_tf.{room}")
        own = [name for name, one in vars(module).items() if _is_from(one, module)]
        for name in getattr(module, "__all__", own):
            one = getattr(module, name)
            if not name.startswith("_") and callable(one):
                found.setdefault(one, f"{room}.{name}")
    return {name: one for one, name in found.items()}


def _is_from(one, module):
    return getattr(one, "__module__", None) == module.__name__


def has_arguments(one):
    parameters = inspect.signature(one).parameters.values()
    return any(p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters)


def test_every_public_object_says_what_its_arguments_are():
    """A class of fields says so under `Attributes`."""
    objects = public_objects()
    assert len(objects) > 100
    undocumented = [name for name, one in objects.items() if not one.__doc__]
    silent = [
        name
        for name, one in objects.items()
        if has_arguments(one) and not re.search(r"^\s*(Args|Attributes):$", one.__doc__, re.M)
    ]
    assert undocumented + silent == []


OF_ARRAYS = (
    *("bounds.report", "model.load_torch_weights", "utils.evaluate_lip_const"),
    *("verify.ball", "verify.bounds", "verify.box", "verify.certified_radius", "verify.falsify"),
    *("verify.prove", "verify.robustness", "verify.to_vnnlib", "verify.decomon.get_adv_box"),
    *("verify.figures.status_figure", "verify.figures.verified_curves", "bounds.local_lipschitz"),
    *("plots.adversarials", "plots.certified_accuracy", "plots.curves", "plots.distributions"),
    *("plots.images", "plots.lipschitz_cone", "plots.margins", "plots.plane", "plots.saliency"),
    *("plots.statuses", "plots.verified_share"),
    *("verify.equivalent", "verify.gradients", "verify.within", "certificates.conformal_sets"),
    *("certificates.certify_regression", "certificates.certify_segmentation"),
)


@pytest.mark.parametrize("name", OF_ARRAYS)
def test_signatures_of_functions_of_arrays_can_be_read(name):
    """`ArrayLike` is shown by its name, and not as the twelve types that it stands for."""
    signature = str(inspect.signature(operator.attrgetter(name)(deel_lip_tf)))
    assert "ArrayLike" in signature and "numpy._typing" not in signature


def test_fields_of_parametrizations_are_arguments_that_layers_explain():
    kinds = [one for one in public_objects().values() if inspect.isclass(one)]
    kinds = [kind for kind in kinds if issubclass(kind, ConstrainedKernel)]
    assert len(kinds) > 10
    silent = [
        (kind.__name__, field.name)
        for kind in kinds
        for field in dataclasses.fields(kind.parametrization_class)
        if field.name not in entries_of(inspect.cleandoc(kind.__doc__))
    ]
    assert silent == []


def entries_of(docstring):
    """What is said of each argument and attribute, by name."""
    found = {}
    for section in re.findall(r"^(?:Args|Attributes):\n((?: +.*\n?)+)", docstring, re.M):
        entries = re.findall(r"^    (\S+): (.*(?:\n     .*)*)", section, re.M)
        found.update({name: " ".join(text.split()) for name, text in entries})
    return found


POINTS_ELSEWHERE = re.compile(r"\blikewise\b|\bas in\b|^(see|as|as for) `", re.I)


def test_what_is_said_of_an_argument_stands_there():
    """Whoever reads one docstring need not look for the meaning of an argument in another."""
    elsewhere = [
        f"{name}({argument}: {text})"
        for name, one in public_objects().items()
        for argument, text in entries_of(inspect.getdoc(one)).items()
        if POINTS_ELSEWHERE.search(text)
    ]
    assert elsewhere == []


@pytest.mark.parametrize(
    "text", ["likewise.", "of `f`, likewise; 0 by default.", "as in `keras.Model`.", "see `f`."]
)
def test_an_argument_explained_elsewhere_is_found(text):
    entries = entries_of(f"A function.\n\nArgs:\n    x: a number.\n    y: {text}\n\nReturns:\n")
    assert list(entries) == ["x", "y"]
    assert POINTS_ELSEWHERE.search(entries["y"]) and not POINTS_ELSEWHERE.search(entries["x"])


def test_every_public_object_has_an_example():
    """`test_docstring_examples.py` runs them."""
    assert [name for name, one in public_objects().items() if ">>> " not in one.__doc__] == []
