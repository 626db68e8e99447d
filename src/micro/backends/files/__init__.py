"""Plain files below the server's home: what is kept there survives every process."""
