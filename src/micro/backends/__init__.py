"""Implementations of the ports: one folder a technology, one file a port."""
