"""Records of event files, in the forms that TensorBoard reads, written by TensorFlow alone."""

import io
from typing import Any

import numpy as np


def _metadata(plugin: str) -> Any:
    # `tf.summary.scalar` needs TensorBoard installed; the records it writes carry just this label
    import tensorflow as tf

    metadata = tf.compat.v1.SummaryMetadata()
    metadata.plugin_data.plugin_name = plugin
    return metadata


def write_scalar(tag: str, value: float, step: int) -> None:
    """A number."""
    import tensorflow as tf

    tf.summary.write(tag, tf.constant(value, "float32"), step, metadata=_metadata("scalars"))


def write_histogram(tag: str, values: np.ndarray, step: int) -> None:
    """How values are distributed."""
    import tensorflow as tf

    counts, edges = np.histogram(values, bins=30)
    # TensorBoard's form of a histogram: one row (left edge, right edge, count) per bin
    rows = np.stack([edges[:-1], edges[1:], counts.astype("float64")], axis=1)
    tf.summary.write(tag, tf.constant(rows), step, metadata=_metadata("histograms"))


def write_figure(tag: str, figure: Any, step: int) -> None:
    """A figure of matplotlib, as an image."""
    import tensorflow as tf

    content = io.BytesIO()
    figure.savefig(content, format="png")
    width, height = (str(round(side * figure.dpi)) for side in figure.get_size_inches())
    # TensorBoard's form of images: width and height as texts, then the encoded images
    entries = tf.constant([width.encode(), height.encode(), content.getvalue()])
    tf.summary.write(tag, entries, step, metadata=_metadata("images"))
