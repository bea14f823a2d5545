"""ONNX files as programs of primitives, without Keras: what verification of a file needs."""
