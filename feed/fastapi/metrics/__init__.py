"""What `/metrics` says."""

METRICS_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""What prometheus-client calls, in the environment, the folder that several processes share. It looks for it when it is
imported."""
