"""What is claimed of every model, against oracles and random search."""
