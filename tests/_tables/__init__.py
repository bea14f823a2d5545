"""The rows that tests run over: layers, losses, models and questions."""
