"""Clients in other languages, generated from the contracts. Empty until the first language arrives."""
