"""The hunt: `python -m deel_lip_tf hunt MODEL.keras` searches for a certificate that is false.

`target` is what is hunted: a model, its claims and samples, under one dtype policy. `referee`
evaluates the exact function by other means than the certificates do, and decides. `searches` holds
the table of searches, `descent` and `inputs` what they are made of, `job` the order of things.
"""
