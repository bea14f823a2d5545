"""Models in the ONNX format: `read.from_onnx` and `write.to_onnx`."""
