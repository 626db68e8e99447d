"""State in SQLite files: what one machine keeps for itself."""
