"""Networks, properties and proofs as files, and what a network computes, in float64."""

import numpy as np
from onnx import TensorProto, helper, numpy_helper, save

from deel_lip_tf.checking.proof import heading


def dense(sizes, seed=0, scale=1.0):
    """Weights (in, out) and biases, float32, of a chain of ReLUs."""
    rng = np.random.default_rng(seed)
    layers = []
    for before, after in zip(sizes[:-1], sizes[1:], strict=True):
        weight = scale * rng.normal(size=(before, after)) / np.sqrt(before)
        layers.append((weight.astype(np.float32), 0.3 * rng.normal(size=after).astype(np.float32)))
    return layers


def saved(path, layers, dtype=np.float32):
    """Writes a chain of `Gemm` and `Relu`."""
    nodes, constants, name = [], {}, "x"
    for k, (weight, bias) in enumerate(layers):
        constants |= {f"w{k}": weight.astype(dtype), f"b{k}": bias.astype(dtype)}
        nodes.append(helper.make_node("Gemm", [name, f"w{k}", f"b{k}"], [f"h{k}"]))
        name = f"h{k}"
        if k < len(layers) - 1:
            nodes.append(helper.make_node("Relu", [name], [f"a{k}"]))
            name = f"a{k}"
    return written(path, nodes, (len(layers[0][0]),), constants, name, dtype)


def written(path, nodes, shape, constants, output, dtype=np.float32, version=14):
    """Writes operators from `x`, of one sample of a shape, to `output`."""
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("x", kind, [1, *shape])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()],
    )
    opset = [helper.make_opsetid("", version)]
    save(helper.make_model(graph, opset_imports=opset, ir_version=8), str(path))
    return path


def values(layers, x):
    """Outputs (n, outputs) of a chain at points (n, inputs)."""
    for k, (weight, bias) in enumerate(layers):
        x = x @ weight.astype(np.float64) + bias
        x = np.maximum(x, 0.0) if k < len(layers) - 1 else x
    return x


def grid(inputs):
    """Points of [-1, 1], many in each direction."""
    line = np.linspace(-1.0, 1.0, {1: 2001, 2: 201, 3: 31}[inputs])
    return np.stack(np.meshgrid(*[line] * inputs, indexing="ij"), -1).reshape(-1, inputs)


def question(inputs, outputs, *conditions):
    """VNN-LIB 1.0 about [-1, 1] in each direction."""
    names = [f"X_{i}" for i in range(inputs)]
    lines = [f"(declare-const {n} Real)" for n in (*names, *(f"Y_{i}" for i in range(outputs)))]
    lines += [f"(assert (<= {n} 1))(assert (>= {n} -1)) ; the box" for n in names]
    return "\n".join([*lines, *(f"(assert {condition})" for condition in conditions)])


def about(arrays, network, property):
    """The arrays of a proof as if it were about other files."""
    return {**arrays, "heading": np.array(heading(network, property))}


def stored(path, arrays):
    """Writes arrays as a proof."""
    with open(path, "wb") as file:
        np.savez(file, **arrays)
    return path
