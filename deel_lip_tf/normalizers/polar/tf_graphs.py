"""What TensorFlow and JAX are told about a computation of many small steps: it stays cheap."""

import contextlib
import contextvars
import functools
import itertools
from collections.abc import Callable, Iterator

import keras
from keras import ops

from deel_lip_tf._keras import is_inside_xla
from deel_lip_tf.normalizers.polar.lapack import by_lapack

# Tracing costs as much as this many calls are slower by without: 0.3 s, and 4 ms each.
_WITHOUT_TRACE = 64

# How a branch that is hardly ever taken is computed: in the graph, by Python when the graph asks
# for it, or, once it does, by the operations one by one.
_IN_GRAPH, _BY_PYTHON, _ONE_BY_ONE = range(3)
_mode: contextvars.ContextVar[int] = contextvars.ContextVar("mode", default=_IN_GRAPH)


@contextlib.contextmanager
def _computed(mode: int) -> Iterator[None]:
    token = _mode.set(mode)
    try:
        yield
    finally:
        _mode.reset(token)


def traced_once(function: Callable, matrix, *settings):
    """`function(matrix, *settings)`, of the shape of `matrix`, differentiable.

    TensorFlow traces it once for a type and its settings, for all shapes, layers and models:
    tracing a thousand small operations for each kernel of each model would cost far more than their
    numbers do. In eager mode the first calls run the operations that are needed one by one, until
    that has cost as much as tracing all would have: most programs need a few calls. JAX traces it
    once for each shape, and outside of compiled functions compiles it once, where it would compile
    each conditional at each call.

    Args:
        function: a function of a module, of one tensor and hashable settings. It does not know
            how long the axes of the tensor are when it is traced.
        matrix: its first argument, (..., rows, columns).
        *settings: the others.
    """
    if keras.backend.backend() == "jax":
        return _compiled(function, settings)(ops.convert_to_tensor(matrix))
    if keras.backend.backend() != "tensorflow":
        return function(matrix, *settings)
    import tensorflow as tf

    kinds = _kinds([matrix])
    if not tf.inside_function() and next(_calls(function, kinds, settings)) < _WITHOUT_TRACE:
        # TensorFlow's: Keras would leave a variable what it is.
        return function(tf.convert_to_tensor(matrix), *settings)
    shape = tuple(matrix.shape)
    # One node in a step that stays in this process: files, LiteRT's above all, have it written out.
    is_by_python = _is_by_python()
    traced = _traced(function, kinds, settings, is_by_python, is_by_python, is_inside_xla())
    # Reshaping does nothing here, and tells the gradient its shape.
    result = traced(tf.reshape(matrix, shape))
    result.set_shape(shape)
    return result


def noinline(
    function: Callable,
    *tensors,
    settings: tuple = (),
    has_last_resort: bool = False,
    is_plain: bool = False,
):
    """`function(*tensors, *settings)`, as one node of the graph wherever it is called.

    For what is large and seldom runs, or runs often from many places: TensorFlow keeps and
    optimizes one graph of it, where it would copy the operations to every place.

    Args:
        function: a function of a module. As above, it does not know how long axes are.
        *tensors: its first arguments.
        settings: the others, hashable.
        has_last_resort: whether `cond_with_last_resort` is in it.
        is_plain: whether its operations are few, and may as well run one by one: then no graph is
            made in eager mode.
    """
    if keras.backend.backend() != "tensorflow" or _mode.get() == _ONE_BY_ONE:
        return function(*tensors, *settings)
    import tensorflow as tf

    if is_plain and not tf.inside_function():
        return function(*tensors, *settings)
    is_by_python = has_last_resort and _is_by_python()
    kinds = _kinds(tensors)
    return _traced(function, kinds, settings, True, is_by_python, is_inside_xla())(*tensors)


def _kinds(tensors) -> tuple:
    return tuple((len(tensor.shape), tensor.dtype) for tensor in tensors)


@functools.lru_cache(maxsize=256)
def _calls(function: Callable, kinds: tuple, settings: tuple) -> Iterator[int]:
    """How often this was called in eager mode."""
    return itertools.count()


@functools.lru_cache(maxsize=256)
def _traced(
    function: Callable,
    kinds: tuple,
    settings: tuple,
    is_one_node: bool,
    is_by_python: bool,
    is_inside_xla: bool,
) -> Callable:
    """XLA has graphs of its own.

    A gradient rewrites the conditionals of a graph in place, so that they hand it what their
    branches computed: outside of XLA as optional values, which XLA cannot compile.
    """
    import tensorflow as tf

    traced = tf.function(
        lambda *tensors: function(*tensors, *settings),
        autograph=False,
        experimental_attributes={"_noinline": True} if is_one_node else None,
    )
    # The concrete function at once: TensorFlow warns of functions that it sees traced often.
    with _computed(_BY_PYTHON if is_by_python else _IN_GRAPH):
        return traced.get_concrete_function(
            *(tf.TensorSpec((None,) * rank, dtype) for rank, dtype in kinds)
        )


@functools.lru_cache(maxsize=256)
def _compiled(function: Callable, settings: tuple) -> Callable:
    import jax

    return jax.jit(lambda matrix: function(matrix, *settings))


def cond_with_rare_branch(
    condition,
    usual: Callable,
    rare: Callable,
    *tensors,
    settings: tuple = (),
    is_plain: bool = False,
):
    """`usual(*tensors, *settings)` where `condition` holds, else `rare(*tensors, *settings)`.

    TensorFlow dissolves both branches of a conditional into the graph around it, and walks through
    the one that is not taken node by node, which for a branch of loops costs more than the other
    one does. Here it stays a function of its own: `rare` is one of a module, as for `noinline`.

    Args:
        condition: a boolean tensor.
        usual: the other branch.
        rare: a function of a module.
        *tensors: the first arguments of both.
        settings: the others, hashable.
        is_plain: whether `rare` is a few operations: none is traced in eager mode.
    """
    return ops.cond(
        condition,
        lambda: usual(*tensors, *settings),
        lambda: noinline(rare, *tensors, settings=settings, is_plain=is_plain),
    )


# --- branches that hardly any run of a graph takes ------------------------------------------------


def cond_with_last_resort(
    condition,
    usual: Callable,
    last_resort: Callable,
    *tensors,
    settings: tuple = (),
    is_cheap: bool = False,
):
    """As `cond_with_rare_branch`, of a branch that most graphs never take in all their life.

    Within `ByPythonAtFirst` it is not traced.

    Args:
        condition: a boolean tensor.
        usual: the other branch.
        last_resort: a function of a module, of a result like the first tensor: of its type and
            with as many axes.
        *tensors: the first arguments of both.
        settings: the others, hashable.
        is_cheap: whether numbers at hand make it cheap, by LAPACK.
    """
    if keras.backend.backend() != "tensorflow" or not _is_by_python():
        return cond_with_rare_branch(condition, usual, last_resort, *tensors, settings=settings)
    import tensorflow as tf

    def called():
        function = _of_arrays(last_resort, settings, 1 if is_cheap else _OPERATIONS)
        result = tf.numpy_function(function, tensors, tensors[0].dtype, stateful=False)
        result.set_shape((None,) * len(tensors[0].shape))
        return result

    return ops.cond(condition, lambda: usual(*tensors, *settings), called)


class ByPythonAtFirst:
    """A function of TensorFlow whose graphs leave to Python what they hardly ever compute.

    Half of the graph of a training step is what computes with a kernel that is far from the
    manifold, which most steps never see. Here the graph calls Python in its place, which runs the
    same operations one by one, or LAPACK. Once it has done so often, the function is made anew,
    with all in its graph. Where XLA compiles the graph, all is in it from the start.

    For what runs in this process, and is not written to a file.

    Args:
        make: makes the function. It is traced when it is called.
    """

    def __init__(self, make: Callable[[], Callable]):
        self._make = make
        self._function = make()
        self._left = _WITHOUT_GRAPH

    def __call__(self, *arguments):
        """The function of these arguments."""
        if self._left <= 0:
            return self._function(*arguments)
        before = _effort.spent
        with _computed(_BY_PYTHON):
            result = self._function(*arguments)
        self._left -= _effort.spent - before
        if self._left <= 0:
            self._function = self._make()
        return result


# To trace a step with all in its graph costs as much as this many calls of LAPACK for a small
# kernel, and operations that run one by one as much as so many of these.
_WITHOUT_GRAPH, _OPERATIONS = 128, 8


class _Effort:
    """What graphs have asked of Python in this process, in calls of LAPACK."""

    spent = 0


_effort = _Effort()


def _is_by_python() -> bool:
    return _mode.get() == _BY_PYTHON and not is_inside_xla()


def computed_as_here(gradient: Callable) -> Callable:
    """A function that is traced later, in a graph that does not know what it is the gradient of."""
    if keras.backend.backend() != "tensorflow":
        return gradient
    mode = _BY_PYTHON if _is_by_python() else _IN_GRAPH

    @functools.wraps(gradient)
    def computed(*arguments, **named):
        with _computed(mode):
            return gradient(*arguments, **named)

    return computed


# Never forgotten: TensorFlow knows what a graph calls by weak references.
@functools.cache
def _of_arrays(function: Callable, settings: tuple, effort: int) -> Callable:
    """`function(*tensors, *settings)` of arrays, by no other threads than the one that calls.

    A function of TensorFlow would wait for those threads that wait for this one.
    """
    import tensorflow as tf

    def called(*arrays):
        _effort.spent += effort
        with _computed(_ONE_BY_ONE), by_lapack():
            return function(*map(tf.convert_to_tensor, arrays), *settings).numpy()

    return called
