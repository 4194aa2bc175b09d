"""The WebSocket at /ws: JSON-RPC both ways, and the events of subscriptions."""
