"""Every tolerance of the tests, once, with its reason."""

# A norm may exceed its claim by this much, relatively: the rounding of a float32 kernel.
SOUND = 1 + 1e-6

# How far from the gain the singular values of an orthogonalised random kernel may be.
TIGHT = 1e-3

# Two float32 evaluations of the same layer, in another order of summation.
SAME_FLOAT32 = dict(rtol=1e-5, atol=1e-5)

# The same after `condense`: the projection is applied to its own result, which moves singular
# values that ended within the asked 1e-3 closer to 1.
CONDENSED = dict(rtol=2e-3, atol=2e-3)

# bfloat16 keeps 8 bits: outputs of a few additions.
SAME_BFLOAT16 = dict(rtol=5e-2, atol=5e-2)

# Central differences in float64 with a step of 1e-6: truncation and cancellation both near 1e-9.
GRADIENT = 1e-4
