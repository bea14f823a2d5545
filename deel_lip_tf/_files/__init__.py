"""Files of others read within limits, and files of our own written whole or not at all."""
