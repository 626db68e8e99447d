"""The platform's own memory, as records of a store."""
