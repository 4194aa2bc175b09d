"""What one process of a fleet does: everything, or a part beside other processes."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator

API, RECORDER, SCHEDULER, AGENTS = "api", "recorder", "scheduler", "agents"
ALL = (API, RECORDER, SCHEDULER, AGENTS)
BROKER = "broker"


def _parse(text: str) -> str:
    roles = [word.strip() for word in text.split(",") if word.strip()]
    unknown = [role for role in roles if role not in ALL]
    if unknown or not roles:
        raise ValueError(f"the roles are {', '.join(ALL)}, separated by commas")
    return ",".join(role for role in ALL if role in roles)


# Kept as text, in one order, so that a setting looks the same wherever it is shown.
Roles = Annotated[str, AfterValidator(_parse)]
