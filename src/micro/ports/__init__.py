"""Plug points: one interface a file. Its prose is the contract that every backend is tested against."""
