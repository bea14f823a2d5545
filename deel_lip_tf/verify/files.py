"""Questions of ONNX files, answered without Keras: what is small need not load a framework."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from deel_lip_tf._rounding import UNITS
from deel_lip_tf.errors import UnsupportedLayerError
from deel_lip_tf.formats.onnx.graph import loaded
from deel_lip_tf.formats.onnx.lowering.program import lower_onnx
from deel_lip_tf.formats.onnx.running import OnnxRun
from deel_lip_tf.semantics.ir.evaluation import evaluated, rounding_errors
from deel_lip_tf.semantics.ir.program import Program
from deel_lip_tf.verify.search.inputs.decide import Verdict, decide_program
from deel_lip_tf.verify.specification.property import Property

if TYPE_CHECKING:
    from deel_lip_tf.verify.search.inputs.record import Record


_COMPARED = 8  # boxes in which the file is run


def decide_file(
    path: str | Path,
    property: Property,
    seconds: float,
    is_nearest: bool = False,
    recorded: "list[Record] | None" = None,
) -> Verdict | None:
    """Decides whether an input of a network in an ONNX file satisfies a property.

    The answers are those of `decide`. A witness is run by ONNX's reference implementation, and
    these outputs satisfy the property exactly.

    Args:
        path: of a file, `.onnx` or `.onnx.gz`.
        property: of as many inputs and outputs as the network has entries.
        seconds: the limit.
        is_nearest: whether an input also counts that is the nearest of its type to a point of the
            box, as in the verification competitions.
        recorded: a list, to which a record of the search is added that has decided; not of a
            property that relates inputs to each other or to outputs, which no proof is about.

    Returns:
        The verdict, or None where the file can only be read as a Keras model.

    Raises:
        ImportError: without the package `onnx`.
        FileNotFoundError: no such file.
        ValueError: other numbers of inputs or outputs.
    """
    if (read := _read(path, property)) is None:
        return None
    program, run = read
    options = {"run": run, "dtype": run.dtype, "is_nearest": is_nearest}
    if recorded is not None and not len(property.relations):
        from deel_lip_tf.checking.proof import content, read_network
        from deel_lip_tf.verify.search.inputs.record import Record

        options["record"] = Record(program, property, read_network(content(path)))
        recorded.append(options["record"])
    return decide_program(program, property, seconds=seconds, **options)


def _read(path: str | Path, property: Property) -> tuple[Program, OnnxRun] | None:
    """The program of an ONNX file, and the file as it runs; None where only Keras can read it.

    They agree in the middle of the boxes of a property, up to rounding: a proof is about the
    function that runs, or there is none.
    """
    try:
        model = loaded(path)
        program, run = lower_onnx(model), OnnxRun(model)
        return (program, run) if _runs_as_read(program, run, property) else None
    except ValueError:  # its reason is told by who reads the file then, if that fails, too
        return None


def _runs_as_read(program: Program, run: OnnxRun, property: Property) -> bool:
    shape = program.input_shape
    boxes = [c for c in property.conjunctions if c.lower.size == np.prod(shape)][:_COMPARED]
    if not boxes:
        return True
    centers = np.stack([(0.5 * box.lower + 0.5 * box.upper).reshape(shape) for box in boxes])
    points = centers.astype(run.dtype)
    try:
        values = evaluated(program, points)
    except UnsupportedLayerError:
        return False
    allowed = 2.0 * rounding_errors(program, values, UNITS[run.dtype.name])[program.output]
    difference = np.abs(run(points) - values[program.output].reshape(len(points), -1))
    return bool((difference <= allowed.reshape(difference.shape)).all())
