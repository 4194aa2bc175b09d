"""One script per Show. Each is a module with `SHOW` and `run(options) -> Figures`; its last line is JSON."""
