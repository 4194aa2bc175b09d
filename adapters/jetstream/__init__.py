"""The event log on JetStream: the log, its connection, and the embedded broker."""
