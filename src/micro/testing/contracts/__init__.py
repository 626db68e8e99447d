"""One suite a port: what every backend of it must do."""
