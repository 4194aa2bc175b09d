"""The ports in memory: part of the product, held to the same suites as the durable ones."""
