"""What layers give to TensorFlow's compiler in a form of its own."""
