"""The Model Context Protocol at /mcp: every action as a tool and tasks as resources, without a session.

One endpoint serves both eras: 2025-11-25 and the two before it, which begin with `initialize`, and 2026-07-28, where
each request says for itself what it speaks. Nothing is kept between two requests, so any replica answers any of them.
"""
