"""REST over Sanic, derived from the registry."""
