"""The module `hivebus` as it is installed: by an editable install, and out of a built wheel."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from entrypoints.client.actions import COMMANDS
from projections.catalogue import QUERIES

ROOT = Path(__file__).resolve().parents[2]
UV = ROOT / ".venv" / "bin" / "uv"
# What makes a start slow, or belongs to the server alone.
HEAVY = ("sanic", "sqlalchemy", "nats", "alembic", "pydantic", "click", "rich")
LOOK = """
import json, sys
sys.path[:0] = sys.argv[1:]
import hivebus
heavy = [name for name in HEAVY if name in sys.modules]
print(json.dumps([hivebus.__file__, hivebus.connect.__code__.co_filename, heavy, hivebus.ListTasks.__name__]))
""".replace("HEAVY", repr(HEAVY))


def looked_at(folder: Path, *first: str) -> list[object]:
    # -I: neither the current directory nor PYTHONPATH helps.
    command = [sys.executable, "-I", "-c", LOOK, *first]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0, done.stderr
    found: list[object] = json.loads(done.stdout)
    return found


def test_the_module_is_there_in_any_directory_and_loads_nothing_of_the_server(tmp_path: Path) -> None:
    module, connect, heavy, query = looked_at(tmp_path)
    assert Path(str(module)).parts[-2:] == ("hivebus", "__init__.py")
    assert connect == str(ROOT / "entrypoints" / "client" / "bus.py")
    assert (heavy, query) == ([], "ListTasks")


def test_every_name_that_the_module_says_it_has_is_there() -> None:
    import hivebus  # noqa: PLC0415 - what this test is about

    assert [name for name in hivebus.__all__ if not hasattr(hivebus, name)] == []
    with pytest.raises(AttributeError, match="'hivebus' has no attribute 'Submit'"):
        hivebus.Submit  # type: ignore[attr-defined]  # noqa: B018


def test_every_action_of_the_registry_has_its_struct_there() -> None:
    import hivebus  # noqa: PLC0415 - as above

    structs = [*COMMANDS, *(query.struct for query in QUERIES)]
    assert [struct.__name__ for struct in structs if getattr(hivebus, struct.__name__, None) is not struct] == []


USER = """
import asyncio
import hivebus

async def main() -> None:
    async with hivebus.connect() as bus:
        await bus.execute(hivebus.SetLimit(key="k", concurrency="two"))
        reveal_type(hivebus.ListTasks)
        await bus.result(7)

asyncio.run(main())
"""


@pytest.mark.peers
@pytest.mark.timeout(300)
def test_a_type_checker_of_a_user_knows_the_structs_and_the_methods(tmp_path: Path) -> None:
    (tmp_path / "user.py").write_text(USER)
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache"), "user.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=250, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("user.py")]
    told = [line.split(": ", 1)[1] for line in lines]
    assert told == [
        'error: Argument "concurrency" to "SetLimit" has incompatible type "str"; expected "int | None"  [arg-type]',
        told[1],
        'error: Argument 1 to "result" of "Bus" has incompatible type "int"; expected "str"  [arg-type]',
    ], done.stdout
    assert "projections.task_queries.ListTasks" in told[1]


@pytest.mark.peers
@pytest.mark.timeout(300)
def test_a_built_wheel_holds_the_module(tmp_path: Path) -> None:
    uv = str(UV) if UV.exists() else shutil.which("uv")
    assert uv is not None, "the wheel is built with uv"
    built = subprocess.run(
        [uv, "build", "--wheel", "--quiet", "--out-dir", str(tmp_path), str(ROOT)],
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("hivebus-*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {
        "hivebus/__init__.py",
        "hivebus/py.typed",
        "entrypoints/client/bus.py",
        "entrypoints/web/hivebus.js",
    } <= names
    unpacked = tmp_path / "unpacked"
    zipfile.ZipFile(wheel).extractall(unpacked)
    module, connect, heavy, query = looked_at(tmp_path, str(unpacked))
    assert (module, heavy, query) == (str(unpacked / "hivebus" / "__init__.py"), [], "ListTasks")
    assert connect == str(unpacked / "entrypoints" / "client" / "bus.py")
