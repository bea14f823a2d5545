"""Random models: what is drawn computes itself a second time, in NumPy.

`values` holds layers in NumPy, `steps` and its neighbours draw them, `graphs` joins them to models,
and `subjects` are models with their points, ready to be asked.
"""
