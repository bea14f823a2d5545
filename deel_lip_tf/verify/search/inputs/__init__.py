"""Branching on the inputs of small networks, in NumPy alone: no graph, no tensor of TensorFlow."""
