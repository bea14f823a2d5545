"""Files of models, a folder or module for each format."""
