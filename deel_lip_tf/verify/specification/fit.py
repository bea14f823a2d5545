"""Whether a property can be asked of a network."""

import numpy as np

from deel_lip_tf.semantics.ir.program import Program
from deel_lip_tf.verify.specification.property import Property

__all__ = ["check_fits"]


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
        balanced = (conjunction.weights.sum(axis=1) == 0) & (conjunction.offsets == 0)
        pairs = (conjunction.weights != 0).sum(axis=1) <= 2
        if program.outputs < 2 or not (balanced & pairs).all():
            raise ValueError(
                f"The model ends with {program.dropped!r}, which is left out of the proof: a "
                "property of it may only compare two outputs with each other. Give a model that "
                "returns logits, and a property of them."
            )
