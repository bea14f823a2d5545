"""Formal verification of Keras classifiers: proofs that a label holds on a whole domain.

`robustness` asks whether all inputs near a sample keep its label, `bounds` bounds outputs and
layers, `certified_radius` searches for the largest radius that can be proven. A domain is made by
`box` or by `ball`. Plain Keras models are verified as they are, models of this library with their
Lipschitz constants as well. `METHODS` lists the ways to a proof, from cheap to tight:

- "lipschitz": the proven Lipschitz constant of the model;
- "ibp": interval bound propagation;
- "crown-ibp": backward linear bounds of the margins over intervals from "ibp";
- "forward": linear functions of the input, carried forward;
- "crown": backward linear bounds of every layer and of the margins;
- "sdp-crown": on L2 balls, the same with balls of what ReLUs read, by proven constants;
- "alpha-crown": as "crown", with the slopes below ReLU and its like optimized for each margin.

Other questions: `within` asks whether outputs stay in an interval, `monotone` whether they grow
with a feature, `equivalent` whether two models return the same up to a tolerance; `gradients`
bounds the derivatives that this rests on, and `deel_lip_tf.bounds.local_lipschitz` is their norm.

`robustness` and `bounds` also know "branch-and-bound", which splits domains at the kinks of ReLU
and its like until the time is up: given enough of it, it decides small networks completely.

Layers: Dense, EinsumDense, Conv1D to Conv3D, depthwise, separable and transposed convolutions,
average, maximum and global pooling, BatchNormalization, Normalization, Rescaling, Flatten, Reshape,
Permute, RepeatVector, ZeroPadding, Cropping, nearest UpSampling, dropout and noise, SimpleRNN,
TimeDistributed, SpectralNormalization, Add, Subtract, Average, Concatenate, Maximum, Minimum, ReLU,
LeakyReLU, PReLU, ELU, the functions relu, relu6, leaky_relu, elu, celu, selu, gelu, silu, mish,
sigmoid, log_sigmoid, tanh, softplus, softsign, squareplus, exponential, hard_sigmoid, hard_silu,
hard_tanh, sparse_sigmoid, sparse_plus, soft_shrink, tanh_shrink and clip, sums and products with
constants, and every layer of this library. A final softmax is left out.
"""

from typing import TYPE_CHECKING, Any

from deel_lip_tf._lazy import found_when_asked_for
from deel_lip_tf._validation.backends import tensorflow_for

if TYPE_CHECKING:
    from deel_lip_tf.formats import from_onnx, from_saved_model, to_onnx
    from deel_lip_tf.verify import decomon, figures
    from deel_lip_tf.verify.decision import Decision, decide
    from deel_lip_tf.verify.domain import Domain, ball, box
    from deel_lip_tf.verify.methods import METHODS
    from deel_lip_tf.verify.proofs import Robustness, prove, robustness
    from deel_lip_tf.verify.properties.answer import Answer
    from deel_lip_tf.verify.properties.equivalence import equivalent
    from deel_lip_tf.verify.properties.gradients import gradients
    from deel_lip_tf.verify.properties.monotonicity import monotone
    from deel_lip_tf.verify.properties.ranges import within
    from deel_lip_tf.verify.queries import Bounds, bounds, certified_radius
    from deel_lip_tf.verify.search.attack import falsify
    from deel_lip_tf.verify.specification.vnnlib import counterexample, read_vnnlib
    from deel_lip_tf.verify.specification.writing import to_vnnlib

# Reading a question and deciding it for a small network needs neither Keras nor TensorFlow.
_found, __dir__ = found_when_asked_for(
    __name__,
    {
        "deel_lip_tf.formats": ("from_onnx", "from_saved_model", "to_onnx"),
        "deel_lip_tf.verify.decision": ("Decision", "decide"),
        "deel_lip_tf.verify.domain": ("Domain", "ball", "box"),
        "deel_lip_tf.verify.methods": ("METHODS",),
        "deel_lip_tf.verify.proofs": ("Robustness", "prove", "robustness"),
        "deel_lip_tf.verify.properties.answer": ("Answer",),
        "deel_lip_tf.verify.properties.equivalence": ("equivalent",),
        "deel_lip_tf.verify.properties.gradients": ("gradients",),
        "deel_lip_tf.verify.properties.monotonicity": ("monotone",),
        "deel_lip_tf.verify.properties.ranges": ("within",),
        "deel_lip_tf.verify.queries": ("Bounds", "bounds", "certified_radius"),
        "deel_lip_tf.verify.search.attack": ("falsify",),
        "deel_lip_tf.verify.specification.vnnlib": ("counterexample", "read_vnnlib"),
        "deel_lip_tf.verify.specification.writing": ("to_vnnlib",),
    },
    ("decomon", "figures"),
)


def __getattr__(name: str) -> Any:
    try:
        return _found(name)
    except ModuleNotFoundError as error:
        if error.name == "tensorflow":
            tensorflow_for(f"`deel_lip_tf.verify.{name}` needs")
        raise


__all__ = [
    "METHODS",
    "Answer",
    "Bounds",
    "Decision",
    "Domain",
    "Robustness",
    "ball",
    "bounds",
    "box",
    "certified_radius",
    "counterexample",
    "decide",
    "decomon",
    "equivalent",
    "falsify",
    "figures",
    "from_onnx",
    "from_saved_model",
    "gradients",
    "monotone",
    "prove",
    "read_vnnlib",
    "robustness",
    "to_onnx",
    "to_vnnlib",
    "within",
]
