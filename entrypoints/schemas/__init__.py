"""The documents of every way in: OpenAPI, OpenRPC, AsyncAPI and their pages, made from the registry."""
