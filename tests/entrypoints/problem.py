"""What every refusal over HTTP must look like."""

from __future__ import annotations

from typing import Any

import httpx


def problem(response: httpx.Response, status: int, code: str, pointer: str | None = None) -> dict[str, Any]:
    """The problem document of a response that must be this one."""
    assert response.status_code == status, (response.status_code, response.text)
    assert response.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = response.json()
    assert {name: body.get(name) for name in ("type", "title", "status", "code")} == {
        "type": f"urn:hivebus:problem:{code}",
        "title": code.replace("_", " "),
        "status": status,
        "code": code,
    }
    assert body["detail"].strip()
    assert body["remedy"].strip()
    assert "Traceback" not in response.text
    if pointer is not None:
        assert body["pointer"] == pointer
    return body
