"""Ways in: HTTP, the command line, and the one place that joins ports to adapters."""
