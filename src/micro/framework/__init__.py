"""What service authors import, by way of the package's root."""
