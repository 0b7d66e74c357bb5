"""How fast things are, against a stated reference in the same run."""
