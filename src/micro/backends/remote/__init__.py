"""Ports that are answered by the platform's own services, reached by RPC."""
