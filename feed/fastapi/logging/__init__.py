"""A line for each request and each stream."""
