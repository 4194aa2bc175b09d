"""Read models: each a pure fold plus a table, disposable, and the queries that read it."""
