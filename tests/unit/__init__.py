"""One module or package at a time: the folders are those of `deel_lip_tf`."""
