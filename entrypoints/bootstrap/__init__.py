"""The composition root, a module for each kind of process: the only place that joins ports to adapters."""
