"""Everything in this process, nothing kept: for tests and for trying things out."""
