"""The tests: a package, so that every helper has one name, whoever imports it."""
