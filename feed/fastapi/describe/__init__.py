"""Describe the routes for programs: OpenAPI and AsyncAPI."""
