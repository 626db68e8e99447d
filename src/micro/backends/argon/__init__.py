"""Ports over argon2, the hash for secrets (RFC 9106)."""
