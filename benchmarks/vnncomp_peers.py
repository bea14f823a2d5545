"""What other programs say of an instance of the competition: run by `vnncomp.py`, elsewhere.

    PYTHON benchmarks/vnncomp_peers.py SIDE FOLDER

PYTHON is an interpreter that has what SIDE needs, and not this library. FOLDER holds
`network.onnx`, and `question.npz` with `lower`, `upper` (n, inputs) and, of the m rows of all
conjunctions, `owner` (m,), `weights` (m, outputs) and `offsets` (m,): an input of box i is a
counterexample where all rows of owner i are at most 0. Prints one line of JSON.

* `onnxruntime` prints the outputs at `point` (inputs,).
* `auto_LiRPA` bounds all rows on whole boxes by optimized slopes (alpha-CROWN), without splitting
  anything: it is a library of bounds, and the complete verifier that is built on it is in no
  registry. Where its optimization stops with an error, by CROWN.
  The network has to be a chain of `Gemm`, `MatMul`, `Add`, `Sub`, `Relu` and `Flatten`. It says
  unsat or unknown.
* `maraboupy` asks Marabou about each conjunction.
"""

import json
import sys
from pathlib import Path

import numpy as np


def onnxruntime(folder: Path, asked: dict) -> list:
    """Outputs of the network, flat."""
    import onnxruntime

    session = onnxruntime.InferenceSession(
        str(folder / "network.onnx"), providers=["CPUExecutionProvider"]
    )
    (given,) = session.get_inputs()
    shape = [size if isinstance(size, int) else 1 for size in given.shape]
    x = asked["point"].astype({"tensor(double)": np.float64}.get(given.type, np.float32))
    return session.run(None, {given.name: x.reshape(shape)})[0].ravel().tolist()


def layers_of(folder: Path) -> list:
    """A chain of affine maps (matrix, bias), and None for each ReLU."""
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(str(folder / "network.onnx")).graph
    known = {one.name: numpy_helper.to_array(one) for one in graph.initializer}
    found: list = []
    for node in graph.node:
        constants = [known[name].astype(np.float64) for name in node.input if name in known]
        options = {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}
        if node.op_type == "Gemm" and set(options) <= {"transB", "alpha", "beta"}:
            matrix = constants[0] if options.get("transB") else constants[0].T
            found.append((matrix * options.get("alpha", 1.0), constants[1].ravel()))
        elif node.op_type == "MatMul" and node.input[1] in known:
            found.append((constants[0].T, np.zeros(constants[0].shape[1])))
        elif node.op_type == "MatMul" and node.input[0] in known:
            found.append((constants[0], np.zeros(len(constants[0]))))
        elif node.op_type in ("Add", "Sub") and constants and node.input[1] in known:
            bias = constants[0].ravel() * (1.0 if node.op_type == "Add" else -1.0)
            if found and found[-1] is not None:
                found[-1] = found[-1][0], found[-1][1] + bias
            elif np.any(bias):
                found.append((np.eye(len(bias)), bias))
        elif node.op_type == "Relu":
            found.append(None)
        elif node.op_type == "Constant":
            known[node.output[0]] = numpy_helper.to_array(options["value"])
        elif node.op_type not in ("Flatten", "Reshape", "Identity"):
            raise NotImplementedError(f"{node.op_type} is not read here")
    return found


def auto_lirpa(folder: Path, asked: dict) -> str:
    """Whether some row of each conjunction is positive on its box, by its bound."""
    import torch
    from auto_LiRPA import BoundedModule, BoundedTensor, PerturbationLpNorm

    modules: list = []
    for layer in layers_of(folder):
        modules.append(torch.nn.ReLU())
        if layer is not None:
            modules[-1] = torch.nn.Linear(layer[0].shape[1], len(layer[0]))
            for own, numbers in zip(modules[-1].parameters(), layer, strict=True):
                own.data = torch.tensor(numbers, dtype=torch.float32)
    network, lower, upper = torch.nn.Sequential(*modules), asked["lower"], asked["upper"]
    bounded = BoundedModule(network, torch.zeros(1, lower.shape[1]), verbose=0)
    bounded.set_bound_opts({"optimize_bound_args": {"ob_verbose": 0, "ob_iteration": 50}})
    is_refuted = np.zeros(len(lower), bool)
    for i in range(len(lower)):
        ends = [torch.tensor(end[i : i + 1], dtype=torch.float32) for end in (lower, upper)]
        norm = PerturbationLpNorm(norm=np.inf, x_L=ends[0], x_U=ends[1])
        x = BoundedTensor(0.5 * (ends[0] + ends[1]), norm)
        own = asked["owner"] == i
        rows = torch.tensor(asked["weights"][own][None], dtype=torch.float32)
        options = {"C": rows, "bound_upper": False}
        try:
            found, _ = bounded.compute_bounds((x,), method="CROWN-Optimized", **options)
        except RuntimeError:
            found, _ = bounded.compute_bounds((x,), method="CROWN", **options)
        is_refuted[i] = (found.detach().numpy().ravel() + asked["offsets"][own] > 0).any()
    return "unsat" if is_refuted.all() else "unknown"


def marabou(folder: Path, asked: dict) -> str:
    """What Marabou says of all conjunctions together."""
    from maraboupy import Marabou

    answers = set()
    for i, (lower, upper) in enumerate(zip(asked["lower"], asked["upper"], strict=True)):
        network = Marabou.read_onnx(str(folder / "network.onnx"))
        inputs, outputs = network.inputVars[0].ravel(), network.outputVars[0].ravel()
        for variable, low, high in zip(inputs, lower, upper, strict=True):
            network.setLowerBound(variable, low)
            network.setUpperBound(variable, high)
        own = asked["owner"] == i
        for row, offset in zip(asked["weights"][own], asked["offsets"][own], strict=True):
            used = np.flatnonzero(row)
            network.addInequality(outputs[used].tolist(), row[used].tolist(), -float(offset))
        options = Marabou.createOptions(verbosity=0)
        answers.add(network.solve(verbose=False, options=options)[0])
        if "sat" in answers:
            return "sat"
    return "unsat" if answers <= {"unsat"} else "unknown"


SIDES = {"onnxruntime": onnxruntime, "auto_LiRPA": auto_lirpa, "maraboupy": marabou}


def main() -> None:
    """One side, in this process."""
    side, folder = sys.argv[1], Path(sys.argv[2])
    with np.load(folder / "question.npz") as file:
        asked = {name: file[name] for name in file.files}
    print(json.dumps(SIDES[side](folder, asked)))


if __name__ == "__main__":
    main()
