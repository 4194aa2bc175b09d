"""JSON-RPC 2.0: one engine for the WebSocket and for POST /api/."""
