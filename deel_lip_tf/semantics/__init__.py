"""What a Keras model computes: its graph as Keras runs it, and each of its layers.

`graph.graph_of` reads a model into calls of layers and operations, nested models written out;
`rule.rule_for` knows what a layer computes, from the classes in `rules/`, `functions` the same of
activation functions; `operators` and `rounding` are what they answer with. `integers` says where
arithmetic of integers is that of real numbers; `sizes` which sizes are equal; `state` what is
computed with.
"""
