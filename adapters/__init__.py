"""What the ports meet outside: brokers, databases, files, processes."""
