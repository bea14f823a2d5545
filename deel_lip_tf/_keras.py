"""What is read from the inside of Keras and its backends: one file to mend when they change.

Keras has no public way to walk a graph, nor names for the classes of its operations; TensorFlow has
none to freeze a function, to forget it, or to say what compiles it; JAX moves the way to float64.
"""

import contextlib
import inspect
import weakref
from collections.abc import Iterable, Iterator
from typing import Any

import keras
import numpy as np
from keras import ops, tree
from keras.src.backend.common import dtypes, global_state
from keras.src.ops import core
from keras.src.ops.node import Node
from keras.src.random import seed_generator

# What runs between the call of a functional model and those of its layers.
_CALL_PATH = (
    "__call__",
    "call",
    "_run_through_graph",
    "_standardize_inputs",
    "_convert_inputs_to_tensors",
    "_adjust_input_rank",
)
# Keras itself puts these on each layer.
_WRAPPED = {"build", "quantize"}


def functional_of(model: keras.Model) -> keras.Model | None:
    """The functional model whose graph a model runs, or None where it may compute otherwise.

    It may where a class outside of Keras and this library, or the instance, overrides what leads
    from its call to those of its layers, or where a Sequential has not been built on an input.
    """
    if overrides_call(model):
        return None
    functional = model._functional if isinstance(model, keras.Sequential) else model
    if not isinstance(functional, keras.Function):
        return None
    return functional if functional is model else functional_of(functional)


def overrides_call(model: keras.Model) -> bool:
    """Whether a class outside of Keras and this library, or the instance, overrides a call."""
    for name in _CALL_PATH:
        owner = next((c for c in type(model).__mro__ if name in vars(c)), None)
        is_known = owner is None or owner.__module__.startswith(("keras.", "deel_lip_tf."))
        if name in vars(model) or not is_known:
            return True
    return False


def replaced_method(operation) -> str | None:
    """The name of a method that was replaced on the instance, such as `layer.call = f`, or None.

    Of a layer, or of one inside it: what a wrapper applies, an activation.
    """
    is_layer = isinstance(operation, keras.layers.Layer)
    for part in flat_layers(operation) if is_layer else [operation]:
        if isinstance(part, keras.Model):
            continue  # it keeps what it is compiled with under such names, and is read by its graph
        for name in vars(part):
            if name not in _WRAPPED and inspect.isfunction(getattr(type(part), name, None)):
                return name
    return None


def is_of_keras(operation) -> bool:
    """Whether the class of a layer or an operation is one of Keras's own."""
    return type(operation).__module__.startswith("keras.src.")


def operation_name(operation) -> str:
    """The name of the class of an operation of Keras that is not a layer; "" of anything else."""
    is_operation = type(operation).__module__.startswith(
        ("keras.src.ops.", "keras.src.activations.")
    )
    return type(operation).__name__ if is_operation else ""


def is_autocast(variable) -> bool:
    """Whether Keras casts a variable of floats to the compute type of the layer that reads it."""
    return getattr(variable, "_autocast", True)


def autocast_inside(layer, outside: str | None) -> str | None:
    """The type that variables are cast to while a layer runs, or None for no cast.

    Args:
        layer: that is called.
        outside: the same of what calls it.
    """
    if outside is None:
        return layer.compute_dtype if layer.compute_dtype != layer.variable_dtype else None
    is_cast = layer.autocast and keras.backend.is_float_dtype(layer.compute_dtype)
    return layer.compute_dtype if is_cast else None


def rounding_as(original: keras.Model, model: keras.Model) -> keras.Model:
    """A model of parts of another one, once it rounds variables in operations as that one does.

    Keras gives a functional model the policy that holds while it is made.
    """
    model.dtype_policy = original.dtype_policy
    return model


def rounds_by_surroundings(layer) -> bool:
    """Whether a layer, or one inside it, reads its weights rounded by itself, and not in a model.

    `autocast_inside` of a layer of mixed precision without `autocast` depends on what calls it.
    """
    return any(
        not part.autocast
        and part.compute_dtype != part.variable_dtype
        and any(is_autocast(weight) for weight in part.weights)
        for part in flat_layers(layer)
    )


def sorted_nodes(outputs: list, known: set[int]) -> list[Node]:
    """The calls that lead from the known tensors to the outputs, each after those it needs."""
    ordered, done, stack = [], set(), [(tensor, False) for tensor in reversed(outputs)]
    while stack:
        tensor, is_expanded = stack.pop()
        operation, index, _ = tensor._keras_history
        if id(tensor) in known or (operation, index) in done:
            continue
        node = operation._inbound_nodes[index]
        if is_expanded:
            done.add((operation, index))
            ordered.append(node)
            continue
        stack.append((tensor, True))
        stack.extend((x, False) for x in reversed(node.input_tensors))
    return ordered


def flat_inputs(functional: keras.Model, given) -> list:
    """What a functional model is called with, in the order of its inputs, as Keras sorts it.

    A dictionary for a model of a list of inputs is read by their names; any other structure is
    flattened, dictionaries by the order of their keys.
    """
    wanted = functional._inputs_struct
    if isinstance(given, dict) and not isinstance(wanted, dict):
        wanted = wanted if isinstance(wanted, list | tuple) else [wanted]
        return [given[tensor.name] for tensor in wanted]
    return tree.flatten(given)


def flat_layers(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    """A layer and all those inside it."""
    return list(layer._flatten_layers())


def cast(dtype: str) -> keras.Operation:
    """The operation of `keras.ops.cast`, that belongs to no graph."""
    return core.Cast(dtype)


def global_seed(is_made: bool = False) -> Any:
    """The state that random numbers without a seed come from, or None while nobody drew one.

    Args:
        is_made: whether to make it where there is none.
    """
    if is_made:
        return seed_generator.global_seed_generator().state
    made = global_state.get_global_attribute(seed_generator.GLOBAL_SEED_GENERATOR)
    return None if made is None else made.state


def set_initial_epoch(model: keras.Model, epoch: int | None) -> None:
    """The epoch that a `fit` begins with which has begun; None for what it was told."""
    model._initial_epoch = epoch


def built_for_training(model: keras.Model, batch: Any) -> None:
    """Creates all that a training step of a compiled model needs: weights, metrics, optimizer.

    Args:
        model: compiled.
        batch: the inputs, labels and maybe weights, as anything that has a shape and a type.
    """
    model._symbolic_build(data_batch=batch)
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)


def build_metrics(model: keras.Model, labels: Any, outputs: Any) -> None:
    """Creates the metrics that a model was compiled with by name, unless they are there.

    Args:
        model: compiled.
        labels: any structure of tensors, of which the shapes and types are looked at.
        outputs: of the model, likewise.
    """
    metrics = model._compile_metrics
    if metrics is not None and not metrics.built:
        metrics.build(
            *tree.map_structure(lambda x: keras.KerasTensor(x.shape, x.dtype), (labels, outputs))
        )


# --- TensorFlow, which is imported where it is asked for ------------------------------------------


def is_inside_xla() -> bool:
    """Whether TensorFlow compiles the function that is being traced as a whole."""
    import tensorflow as tf
    from tensorflow.python.ops import control_flow_util

    return control_flow_util.GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph())


@contextlib.contextmanager
def outside_of_graphs() -> Iterator[None]:
    """Where variables are made as outside of a function that is being traced.

    TensorFlow traces a function again that has made variables, and notes those that are made in an
    `init_scope`, too: the function's graph is the default one there.
    """
    import tensorflow as tf
    from tensorflow.python.eager import context

    with tf.init_scope(), tf.Graph().as_default(), context.eager_mode():
        yield


def frozen(function: Any) -> Any:
    """A concrete function with its variables as constants and its calls written out."""
    from tensorflow.python.framework import convert_to_constants

    return convert_to_constants.convert_variables_to_constants_v2(
        function, lower_control_flow=False, aggressive_inlining=True
    )


@contextlib.contextmanager
def forgotten_functions() -> Iterator[None]:
    """Removes what freezing registers: it gives the same names to parts of the next function."""
    from tensorflow.python.eager import context
    from tensorflow.python.eager.polymorphic_function import atomic_function

    current = context.context()
    before = current.list_function_names()
    try:
        yield
    finally:
        # Those that are counted are removed with the last object that refers to them.
        counted = {name.decode() for _, name in atomic_function.RUNTIME_FUNCTION_REFS}
        for name in current.list_function_names() - before - counted:
            while current.has_function(name):  # as often as it was registered
                current.remove_function(name)


def is_stateful_operator(kind: str) -> bool:
    """Whether an operator of TensorFlow keeps, draws or prints something."""
    from tensorflow.python.framework import op_def_registry

    definition = op_def_registry.get(kind)
    return definition is not None and definition.is_stateful


# The graphs of the steps of models.
_TRACED: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


def note_trace(model: keras.Model) -> None:
    """Called in a step of a model: what TensorFlow keeps of its graph is forgotten with the model.

    TensorFlow registers each custom gradient that it traces, one of Keras's optimizers among them,
    under a new name for ever, and with it the whole graph, its variables and its program.
    """
    if keras.backend.backend() != "tensorflow":
        return
    import tensorflow as tf

    if not tf.inside_function():
        return
    if model not in _TRACED:
        _TRACED[model] = weakref.WeakSet()
        weakref.finalize(model, _forget_gradients, _TRACED[model]).atexit = False
    _TRACED[model].add(tf.compat.v1.get_default_graph())


def _forget_gradients(graphs: weakref.WeakSet) -> None:
    from tensorflow.python.framework import ops as framework

    registered = framework.gradient_registry._registry
    gone = set(graphs)
    # Another model may go in the middle of this, whenever Python collects what is left.
    for name, entry in list(registered.items()):
        is_custom = name.startswith("CustomGradient-")
        if is_custom and any(not gone.isdisjoint(_outwards(g)) for g in _graphs_of(entry)):
            registered.pop(name, None)


def _outwards(graph: Any) -> Iterator[Any]:
    """A graph and, of a branch or a loop, the one that it is a part of, and so on.

    A function that is called has a graph of its own, which other models may call, too.
    """
    from tensorflow.python.ops import control_flow_v2_func_graphs as parts

    kinds = parts.CondBranchFuncGraph, parts.WhileCondFuncGraph, parts.WhileBodyFuncGraph
    yield graph
    while isinstance(graph, kinds):
        graph = graph.outer_graph
        yield graph


def _graphs_of(entry: dict) -> Iterable[Any]:
    """The graphs of the tensors that a registered gradient, or a function in it, remembers."""
    import tensorflow as tf

    found, functions, seen = set(), [entry["type"]], set[int]()
    while functions:
        function = functions.pop()
        seen.add(id(function))
        for cell in getattr(function, "__closure__", None) or ():
            with contextlib.suppress(ValueError):  # a cell that is empty
                held = cell.cell_contents
                tensors = held if isinstance(held, list | tuple) else [held]
                tensors = [one for one in tensors if isinstance(one, tf.Tensor)]
                found |= {one.graph for one in tensors if tf.is_symbolic_tensor(one)}
                if inspect.isfunction(held) and id(held) not in seen:
                    functions.append(held)
    return found


# --- JAX, which is imported where it is asked for -------------------------------------------------


def computes_float64() -> bool:
    """Whether Keras's float64 is float64: JAX rounds it to float32, unless it is told not to."""
    if keras.backend.backend() != "jax":
        return True
    import jax

    return bool(jax.config.jax_enable_x64)


def float32_at_least(*given: Any) -> str:
    """float64 where one of the types is that and is computed, and float32 where none is.

    `keras.backend.result_type` knows no float64 on other backends than TensorFlow.
    """
    is_wide = "float64" in map(keras.backend.standardize_dtype, given) and computes_float64()
    return "float64" if is_wide else "float32"


@contextlib.contextmanager
def float64_kept() -> Iterator[None]:
    """Where Keras's functions of float64 tensors are computed in float64.

    On other backends than TensorFlow it takes means, and some others, in float32, by a table of
    types.
    """
    narrowed = dtypes.BIT64_TO_BIT32_DTYPE
    before = narrowed["float64"]
    narrowed["float64"] = "float64"
    try:
        yield
    finally:
        narrowed["float64"] = before


def float64_kept_for(dtype: str) -> contextlib.AbstractContextManager[None]:
    """`float64_kept()` for float64, and for any other type nothing."""
    return float64_kept() if dtype == "float64" else contextlib.nullcontext()


@contextlib.contextmanager
def float64_on_cpu() -> Iterator[None]:
    """Where what is computed in float64 is so, on the CPU; nothing outside of it changes."""
    with contextlib.ExitStack() as stack:
        # PyTorch takes "cpu:0" for another device than "cpu", and variables of integers fail there.
        is_torch = keras.backend.backend() == "torch"
        stack.enter_context(keras.device("cpu" if is_torch else "cpu:0"))
        if not computes_float64():
            import jax

            stack.enter_context(jax.enable_x64(True))
        stack.enter_context(float64_kept())
        yield


def rounds_inputs(layer: keras.layers.Layer) -> bool:
    """Whether a quantized layer rounds what it is given, and not its weights alone."""
    if layer.quantization_mode == "float8":
        return True
    in_groups = (getattr(layer, "_int4_block_size", None) or -1) > 0  # of which it rounds nothing
    return not in_groups and getattr(layer, "inputs_quantizer", None) is not None


def dequantized_kernel(layer: keras.layers.Dense) -> np.ndarray:
    """The kernel of a dense layer of int8 or int4 weights, as float64.

    Keras divides the result of a product with integers by a scale for each output, which is the
    product with their quotients, here rounded to float64. Int4 weights in groups it multiplies out
    itself, in the type that it computes in, and so is the kernel. Scales are read in that type.
    """

    def read(variable: Any) -> np.ndarray:
        return np.asarray(ops.convert_to_numpy(ops.cast(variable, layer.compute_dtype)))

    stored = layer.kernel if layer.quantization_mode == "int4" else layer._kernel
    integers = np.asarray(ops.convert_to_numpy(stored)).astype(np.float64)
    scale = read(layer.kernel_scale)
    if (getattr(layer, "_int4_block_size", None) or -1) <= 0:
        return integers / scale.astype(np.float64)
    groups = read(layer.g_idx).astype(int)
    zero = np.asarray(ops.convert_to_numpy(layer.kernel_zero)).astype(np.float64)
    kernel = (integers - zero[groups]).astype(scale.dtype) * scale[groups]
    kernel = ops.convert_to_numpy(ops.cast(kernel, layer.compute_dtype))
    return np.asarray(kernel).astype(np.float64)
