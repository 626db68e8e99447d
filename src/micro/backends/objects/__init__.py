"""State in object storage that speaks S3's protocol."""
