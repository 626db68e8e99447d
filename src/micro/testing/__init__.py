"""Shipped for others: contract suites for authors of backends, fixtures for authors of services."""
