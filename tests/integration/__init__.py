"""The package as a whole: what is shipped, its pages, its commands, its imports."""
