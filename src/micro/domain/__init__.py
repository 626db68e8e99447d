"""Pure values and decisions. Imports the standard library only, and of that nothing that does input or output."""
