"""Every action as it is declared, for documents that are written while no program runs. None can be carried out."""

from __future__ import annotations

from typing import Any

from core.actions import registry
from entrypoints.calls import Calls, actions_of
from entrypoints.http.events import event_list
from entrypoints.http.readings import SystemInfo, SystemStatus
from entrypoints.http.system import system_actions
from entrypoints.rpc.older import older_actions
from entrypoints.schemas.documents import Documents
from projections.catalogue import QUERIES


def documents(version: str) -> Documents:
    """The documents as any program of this version serves them."""
    calls = declared()
    missing: Any = None
    named = Calls((*calls.actions.values(), *older_actions(calls, missing)))
    return Documents(calls, named, registry(QUERIES), version)


def declared() -> Calls:
    """The actions of the registry and of the program itself."""
    missing: Any = None
    return Calls(
        (
            *actions_of(registry(QUERIES), missing),
            event_list(missing, missing, missing, missing),
            *system_actions(_status, _info),
        )
    )


async def _status() -> SystemStatus:
    raise NotImplementedError


async def _info() -> SystemInfo:
    raise NotImplementedError
