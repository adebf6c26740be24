"""The `/metrics` page.

Nothing here imports prometheus-client: that library chooses its mode at import, by the variable below.
"""

METRICS_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""The environment variable with which prometheus-client is told the folder that several processes share."""
