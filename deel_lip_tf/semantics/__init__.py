"""What a Keras model computes: its graph as Keras runs it, for every analysis.

`graph.graph_of` reads a model into calls of layers and operations, nested models written out;
`integers` says where arithmetic of integers is that of real numbers; `state` what is computed with;
`sorting` sorts by comparisons.
"""
