"""The scheduler as pure code: the log is folded in, commands come out. Nothing here knows a clock or a wire."""
