"""The commands of ``python -m deel_lip_tf``, and what they share."""
