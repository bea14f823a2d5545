"""Layers that return their input at inference."""

from keras import layers

from deel_lip_tf.semantics.integers import same
from deel_lip_tf.semantics.rounding import copied
from deel_lip_tf.semantics.rule import Rule, each_entry, only, rule
from deel_lip_tf.semantics.sizes import every_axis


@rule(
    layers.InputLayer,
    layers.Identity,
    layers.Dropout,
    layers.SpatialDropout1D,
    layers.SpatialDropout2D,
    layers.SpatialDropout3D,
    layers.AlphaDropout,
    layers.GaussianDropout,
    layers.GaussianNoise,
    layers.ActivityRegularization,
)
class Identity(Rule):
    """`x`: noise and dropout do nothing at inference."""

    gradient = "average"
    rounding = staticmethod(copied)
    integers = staticmethod(same)
    keeps_size = staticmethod(every_axis)

    def lipschitz(self, layer, input_shape, norm):
        return 1.0

    def groups(self, layer, input_shape):
        return each_entry(input_shape)

    def lower(self, lowering, layer, inputs):
        return only(inputs)


@rule(
    layers.AugMix,
    layers.CutMix,
    layers.MixUp,
    layers.RandAugment,
    layers.RandomBrightness,
    layers.RandomColorDegeneration,
    layers.RandomColorJitter,
    layers.RandomContrast,
    layers.RandomElasticTransform,
    layers.RandomErasing,
    layers.RandomFlip,
    layers.RandomGaussianBlur,
    layers.RandomGrayscale,
    layers.RandomHue,
    layers.RandomInvert,
    layers.RandomPerspective,
    layers.RandomPosterization,
    layers.RandomRotation,
    layers.RandomSaturation,
    layers.RandomSharpness,
    layers.RandomShear,
    layers.RandomTranslation,
    layers.RandomZoom,
)
class Augmentation(Identity):
    """`x` at inference, as a float.

    `RandomCrop` resizes images of another size, and is none of these.
    """

    casts_integers = True
