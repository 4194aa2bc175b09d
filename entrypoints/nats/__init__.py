"""Commands of programs that speak NATS."""
