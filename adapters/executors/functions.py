"""Task functions: registered under the entry-point group `hivebus.tasks`, loaded when first asked for."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from msgspec import Struct

from core.kernel.errors import Unprocessable

GROUP = "hivebus.tasks"


class Function(Struct, frozen=True):
    """A loaded task function and what the executor must know of it."""

    name: str
    target: str
    call: Callable[..., Any]
    signature: inspect.Signature
    is_async: bool
    wants_task: bool

    def check(self, arguments: Mapping[str, Any]) -> None:
        """Unprocessable if the function cannot be called with these arguments."""
        if self.wants_task and "task" in arguments:
            raise Unprocessable(
                f"{self.name} is given `task` by the executor; it is no argument.", code="bad_arguments"
            )
        try:
            self.signature.bind(**arguments, **({"task": None} if self.wants_task else {}))
        except TypeError as error:
            raise Unprocessable(
                f"{self.name}{self.signature} was called wrongly: {error}.", code="bad_arguments"
            ) from error


class Functions:
    """The functions of one installation. Names are read once, each function is imported once."""

    def __init__(self, registered: Mapping[str, EntryPoint] | None = None) -> None:
        self._registered = registered
        self._loaded: dict[str, Function] = {}

    def known(self) -> list[str]:
        """The names of all registered functions, sorted. Reads the installed distributions the first time."""
        if self._registered is None:
            self._registered = {point.name: point for point in entry_points(group=GROUP)}
        return sorted(self._registered)

    def loaded(self, name: str) -> Function | None:
        """The function if it was loaded before."""
        return self._loaded.get(name)

    def load(self, name: str) -> Function:
        """Import a function; it may take long. Unprocessable if there is none, or if importing it fails."""
        known = self.known()
        point = (self._registered or {}).get(name)
        if point is None:
            sentence = f"There is no function {name!r} here; known are {', '.join(known) or 'none'}."
            raise Unprocessable(sentence, code="unknown_function")
        try:
            call = point.load()
            signature = inspect.signature(call)
        except Exception as error:
            sentence = f"{point.value} could not be imported: {type(error).__name__}: {error}."
            raise Unprocessable(sentence, code="broken_function") from error
        task = signature.parameters.get("task")
        wants_task = task is not None and task.kind in (task.KEYWORD_ONLY, task.POSITIONAL_OR_KEYWORD)
        is_async = inspect.iscoroutinefunction(call)
        self._loaded[name] = Function(name, point.value, call, signature, is_async, wants_task)
        return self._loaded[name]


_installed = Functions()


def known() -> list[str]:
    """The names of all task functions of this installation, sorted."""
    return _installed.known()


def installed() -> Functions:
    """The functions of this installation, one cache for the whole program."""
    return _installed
