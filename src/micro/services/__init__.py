"""The core services: use cases over ports. Each class implements the Protocol generated from its contract."""
