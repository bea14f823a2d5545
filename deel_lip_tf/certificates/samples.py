"""The samples that are certified: an array, or batches as `evaluate` takes them."""

from collections.abc import Iterable, Iterator
from typing import Any

import keras
import numpy as np

from deel_lip_tf._validation.arrays import samples_of
from deel_lip_tf._validation.labels import is_signed, true_classes
from deel_lip_tf.certificates.fingerprints import SamplesFingerprint
from deel_lip_tf.semantics.integers import is_within, of_dtype


class Samples:
    """What is certified, one batch after the other, once.

    Args:
        model: whose input they are.
        x: samples, or batches of samples, or of samples and labels.
        y: labels of an array of samples, or None.

    Raises:
        ValueError: if `y` is given beside batches, the batches never end, or samples or labels do
            not fit the model; of batches, when it is their turn.
    """

    def __init__(self, model: keras.Model, x: Any, y: Any = None):
        self._model, self._classes = model, model.outputs[0].shape[-1]
        self._labels: list[np.ndarray | None] = []
        self._fingerprint = SamplesFingerprint()
        if _is_batched(x):
            if y is not None:
                raise ValueError(
                    "`y` must be left out where `x` is a data set of batches, which hold their "
                    f"labels: `(x, y)`. Received: y of type {type(y).__name__}."
                )
            self._parts: Iterable = (self._checked(*_pair(batch)) for batch in _batches(x))
        else:
            self._parts = [self._checked(x, y)]

    def batches(self, size: int) -> Iterator[np.ndarray]:
        """The samples as float64, at most `size` at a time."""
        count = 0
        for samples, labels in self._parts:
            self._labels.append(labels)
            self._fingerprint.update(samples)
            count += len(samples)
            yield from (samples[i : i + size] for i in range(0, len(samples), size))
        if not count:
            raise ValueError("`x` must hold samples. Received: a data set without batches.")

    def _checked(self, x: Any, y: Any) -> tuple[np.ndarray, np.ndarray | None]:
        samples = checked_samples(self._model, x)
        if y is None:
            return samples, None
        true_classes(y, len(samples), self._classes)
        return samples, np.asarray(y)

    def labels(self) -> tuple[np.ndarray | None, bool]:
        """After all batches, `(true classes (n,) or None, whether they are -1 and 1)`."""
        given = [labels for labels in self._labels if labels is not None]
        if not given:
            return None, False
        if len(given) < len(self._labels) or len({labels.shape[1:] for labels in given}) > 1:
            raise ValueError(
                "`x` must hold labels of one form in each of its batches, or in none. Received: "
                f"labels in {len(given)} of {len(self._labels)} batches, of shapes "
                f"{sorted({labels.shape[1:] for labels in given})} each."
            )
        labels = np.concatenate(given)
        return true_classes(labels, len(labels), self._classes), is_signed(labels, self._classes)

    def fingerprint(self) -> str:
        """Of all samples that were handed out."""
        return self._fingerprint.text()


def checked_samples(model: keras.Model, x: Any) -> np.ndarray:
    """The samples as float64, once the model takes them as they are.

    Raises:
        ValueError: if they are not real numbers of the model's input shape and type.
    """
    samples = samples_of(x, model.inputs[0].shape[1:])
    dtype = keras.backend.standardize_dtype(model.inputs[0].dtype)
    limits = of_dtype(dtype)
    if limits is not None and not is_within(samples, limits):
        raise ValueError(
            f"`x` must hold integers of the type of the model's input, {dtype}: the model would "
            f"round others. Received: values from {samples.min()} to {samples.max()} of dtype "
            f"{samples.dtype}."
        )
    return samples.astype(np.float64)


def _is_batched(x: Any) -> bool:
    """Whether it is a data set: what can be iterated over, and is no array nor made of numbers."""
    if isinstance(x, keras.utils.PyDataset):
        return True
    is_data = hasattr(x, "__array__") or isinstance(x, list | tuple | dict | str | bytes)
    return not is_data and hasattr(x, "__iter__")


def _batches(data: Any) -> Iterable:
    if isinstance(data, keras.utils.PyDataset):
        if data.num_batches is None:
            raise ValueError(_ENDLESS)
        return (data[i] for i in range(data.num_batches))
    # Of `tf.data`: -1 stands for infinitely many.
    if hasattr(data, "cardinality") and int(data.cardinality()) == -1:
        raise ValueError(_ENDLESS)
    return data


_ENDLESS = (
    "`x` must end. Received: an infinite data set. Take a part of it, such as `x.take(steps)` of a "
    "`tf.data.Dataset`."
)


def _pair(batch: Any) -> tuple:
    """`(x, y or None)` of one batch; the weights of samples are left out."""
    if not isinstance(batch, list | tuple):
        return batch, None
    if not 1 <= len(batch) <= 3:
        raise ValueError(
            "`x` must hold batches `x`, `(x, y)` or `(x, y, sample_weight)`. Received: a batch of "
            f"{len(batch)} parts."
        )
    return batch[0], batch[1] if len(batch) > 1 else None
