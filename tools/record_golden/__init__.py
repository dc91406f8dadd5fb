"""Record the golden traces of `tests/golden` again, from upstream's own code."""
