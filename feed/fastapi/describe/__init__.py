"""What the routes are, for programs: OpenAPI and AsyncAPI."""
