"""A2A 1.0 at the tools listener: other agents find this one by its card and hand it tasks (a2a-protocol.org)."""
