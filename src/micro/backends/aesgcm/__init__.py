"""Sealing with AES-256 in Galois/Counter Mode (NIST SP 800-38D)."""
