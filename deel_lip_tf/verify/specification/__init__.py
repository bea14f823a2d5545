"""What is asked: properties of inputs and outputs, and the VNN-LIB files that state them."""
