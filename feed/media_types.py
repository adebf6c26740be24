"""The media types that the server and the client name to each other."""

JSON = "application/json"
NDJSON = "application/x-ndjson"
PROBLEM = "application/problem+json"  # RFC 9457
SSE = "text/event-stream"
