"""What the pages say of the package: names, files, tests and examples."""
