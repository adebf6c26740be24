"""Log a line for each request and each stream."""
