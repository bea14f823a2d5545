# %% [markdown]
# # A network that knows which way is up
#
# Of a table of patients a doctor knows that the disease does not get better because the body mass
# index or the blood pressure is larger, everything else being the same. A network that is trained
# on a few hundred patients does not know it, and the noise of the data shows. Here one is built
# that cannot contradict, and both are asked for a proof.
#
# **Data:** 442 patients with diabetes, ten features each, which come with scikit-learn; the
# target is the progression of the disease after a year. **Needs:** the extra `demo`.

# %% tags=["parameters"]
epochs = 60
seconds = 20.0

# %%
import keras
import numpy as np
from sklearn.datasets import load_diabetes

import deel_lip_tf as lip

keras.utils.set_random_seed(0)
table = load_diabetes()
names = table.feature_names
order = np.random.default_rng(0).permutation(len(table.data))
x = (table.data / table.data.std(axis=0))[order].astype("float32")
y = ((table.target - table.target.mean()) / table.target.std())[order, None].astype("float32")
train, test = slice(0, 342), slice(342, None)
print(f"{len(x)} patients, features {', '.join(names)}; in units of their standard deviations")

# %% [markdown]
# ## What is known
#
# The progression grows with the body mass index (`bmi`), the blood pressure (`bp`) and the
# logarithm of the triglycerides (`s5`), and falls with HDL, the good cholesterol (`s3`). Of the
# other features nothing is said.

# %%
known = {"bmi": "increasing", "bp": "increasing", "s5": "increasing", "s3": "decreasing"}
monotonicities = [known.get(name, "none") for name in names]


# %% [markdown]
# ## Two networks
#
# The first one is an ordinary network. The second one is `f(x) + sum(s_i x_i)` where every
# derivative of `f` is at most 1: `AbsoluteSumConstraint` keeps the absolute weights of each input
# below 1, and sorting keeps the slopes that ReLU would cut.


# %%
def hidden(activation, **options):
    """Two hidden layers of 32 units, and one output."""
    layers = [keras.Input((len(names),))]
    for units in (32, 32):
        layers += [keras.layers.Dense(units, **options), activation()]
    return keras.Sequential([*layers, keras.layers.Dense(1, **options)])


plain = hidden(keras.layers.ReLU)
limited = hidden(lip.layers.GroupSort2, kernel_constraint=lip.constraints.AbsoluteSumConstraint())
lip.constraints.apply_constraints(limited)
growing = lip.model.monotonic(limited, monotonicities)

models = {"ordinary": plain, "monotone": growing}
for name, model in models.items():
    model.compile(keras.optimizers.Adam(3e-3), "mae", jit_compile=False)
    model.fit(x[train], y[train], batch_size=32, epochs=epochs, verbose=0)
    errors = [model.evaluate(x[part], y[part], verbose=0) for part in (train, test)]
    print(f"{name}: mean absolute error {errors[0]:.3f} in training, {errors[1]:.3f} in the test")

# %% [markdown]
# The ordinary network learns its training data by heart. What the other one knows keeps it from
# doing so.
#
# ## Is it true?
#
# `verify.monotone` looks for a proof, or for two patients who differ in one feature alone and
# contradict it. The box holds all patients of the table, and everything between.

# %%
domain = lip.verify.box(x.min(axis=0)[None], x.max(axis=0)[None])
for name, model in models.items():
    for feature, direction in known.items():
        answer = lip.verify.monotone(
            model,
            names.index(feature),
            domain,
            increasing=direction == "increasing",
            time_limit=seconds,
        )
        print(f"{name}, {direction} with {feature}: {answer.status[0]}")
        if answer.status[0] == "falsified":
            low, high = (float(v) for v in np.ravel(model(answer.witness[0])))
            print(f"    {low:.3f} becomes {high:.3f}")

# %% [markdown]
# Of the monotone network there is a second proof, which needs no box: no derivative of its first
# part exceeds the constant for the L1 norm.

# %%
constant = lip.bounds.lipschitz_bound(limited, norm="l1").value
print(f"proven constant of f for the L1 norm: {constant:.4f}, at most 1: {constant <= 1.0}")

# %% [markdown]
# ## What it looks like
#
# One patient of the test, of whom one number alone is changed: the body mass index, then HDL.


# %%
def along(feature):
    """Predictions for one patient with other values of a feature."""
    index = names.index(feature)
    places = np.linspace(x[:, index].min(), x[:, index].max(), 80)
    patient = np.repeat(x[test][:1], len(places), axis=0)
    patient[:, index] = places
    lines = {name: np.ravel(model(patient)) for name, model in models.items()}
    units = {"xlabel": f"{feature}, in standard deviations", "ylabel": "predicted progression"}
    return lip.plots.curves(lines, places, **units)


along("bmi")

# %%
along("s3")
