"""Models in TensorFlow's SavedModel format: `read.from_saved_model`."""
