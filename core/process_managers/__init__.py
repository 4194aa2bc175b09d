"""What touches several aggregates: events come in, commands go out. A part of the scheduler's fold, and as pure."""
