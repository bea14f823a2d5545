"""Exports of many layers at once, and what is in a SavedModel."""

import itertools

import keras
import numpy as np

import deel_lip_tf as lip


def by_shape(cases):
    """`(shape, cases of that input shape)`, each shape once: one model may hold them all."""
    ordered = sorted(cases, key=lambda case: case.shape)
    return [(s, list(group)) for s, group in itertools.groupby(ordered, lambda case: case.shape)]


def model_of(cases, rng):
    """A model with one output for each case, and weights off the manifolds that they start on."""
    inputs = keras.Input(cases[0].shape)
    model = lip.Model(inputs, [case.make()(inputs) for case in cases])
    for weight in model.trainable_weights:
        weight.assign(weight + 0.1 * rng.normal(size=weight.shape))
    return model


def outputs_of(model, x):
    """The outputs at inference, as arrays, of a model of one or of several."""
    outputs = model(x, training=False)
    outputs = outputs if isinstance(outputs, list | tuple) else [outputs]
    return [np.asarray(output) for output in outputs]


def operations_of(function):
    """The names of all TensorFlow operations of a concrete function, and of those it calls."""
    graph = function.graph.as_graph_def()
    inner = (node for one in graph.library.function for node in one.node_def)
    return {node.op for node in itertools.chain(graph.node, inner)}
