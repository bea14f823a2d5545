"""Programs in ONNX operators: tensors, maps, functions, and layers that have an operator."""
