"""Whether a property can be asked of a network, and the network that answers it.

A property of relations between inputs is one of the network that returns them, too.
"""

from dataclasses import replace

import numpy as np

from deel_lip_tf.semantics.ir.decompositions import reshaped
from deel_lip_tf.semantics.ir.primitives import Concatenate, MatMul
from deel_lip_tf.semantics.ir.program import Builder, Program
from deel_lip_tf.verify.specification.property import Property


def check_fits(program: Program, property: Property) -> None:
    """Raises a `ValueError` where a property is not about a network.

    It has other numbers of inputs or outputs, or depends on probabilities of which only the logits
    are in the program.
    """
    inputs = int(np.prod(program.input_shape))
    if (inputs, program.outputs) != (property.inputs, property.outputs):
        raise ValueError(
            f"The model has {inputs} inputs and {program.outputs} outputs; the property has "
            f"{property.inputs} and {property.outputs}. Do they belong together?"
        )
    if program.dropped is None:
        return
    # A softmax is left out of the proof: what is asked must not depend on it.
    for conjunction in property.conjunctions:
        weights = conjunction.weights[:, : property.outputs]
        relations = conjunction.weights[:, property.outputs :]
        balanced = (weights.sum(axis=1) == 0) & (conjunction.offsets == 0)
        pairs = ((weights != 0).sum(axis=1) <= 2) & ~relations.any(axis=1)
        is_of_inputs = ~weights.any(axis=1)
        if program.outputs < 2 or not ((balanced & pairs) | is_of_inputs).all():
            raise ValueError(
                f"The model ends with {program.dropped!r}, which is left out of the proof: a "
                "property of it may only compare two outputs with each other. Give a model that "
                "returns logits, and a property of them."
            )


def with_relations(program: Program, property: Property) -> Program:
    """The program that returns its outputs, flat, and behind them the relations of a property."""
    if not len(property.relations):
        return program
    key = ("relations", property.relations.tobytes())
    if key not in program.compiled:
        builder = Builder(program.input_shape)
        builder.nodes = list(program.nodes)
        flat = reshaped(builder, 0, (property.inputs,))
        related = builder.affine(flat, MatMul(np.ascontiguousarray(property.relations.T)))
        outputs = reshaped(builder, program.output, (program.outputs,))
        both = builder.affine([outputs, related], Concatenate(1))
        nodes = tuple(builder.nodes)
        program.compiled[key] = replace(program, nodes=nodes, output=both, compiled={})
    return program.compiled[key]
