"""Training on several devices, with TensorFlow's own engine, `tf.distribute`."""
