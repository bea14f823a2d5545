"""The main job: train, prove, certify, attack and export a 1-Lipschitz network in one command.

``python -m deel_lip_tf quickstart`` is its front door; everything here is private to it and may
change. The pieces, in the order in which the job uses them: ``checks`` (is all there that will be
needed?), ``data``, ``network``, ``attacks``, ``export``, ``figures``, ``report``; ``job`` runs
them.
"""
