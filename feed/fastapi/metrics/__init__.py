"""What `/metrics` says.

Nothing here imports prometheus-client: it chooses its mode when it is imported, by the variable below.
"""

METRICS_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""What prometheus-client calls, in the environment, the folder that several processes share."""
