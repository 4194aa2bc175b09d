"""`make accept`: run the scripts one after the other and write docs/evidence.md."""

from __future__ import annotations

import argparse
import datetime
import json
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
EVIDENCE = ROOT / "docs" / "evidence.md"
RESULTS = ROOT / "docs" / "evidence.json"
SCRIPT_S_MAX = 1800


def main() -> int:
    parser = argparse.ArgumentParser(prog="make accept", description=__doc__)
    parser.add_argument("--only", help="the name of one script")
    parser.add_argument("--fast", action="store_true", help="smaller counts; never replaces the line of a full run")
    arguments = parser.parse_args()
    shows: list[dict[str, Any]] = tomllib.loads((HERE / "shows.toml").read_text())["show"]
    names = list(dict.fromkeys(name for show in shows for name in _scripts(show)))
    if arguments.only and arguments.only not in names:
        print(f"There is no script {arguments.only!r}; there are {', '.join(names)}.", file=sys.stderr)
        return 2
    results: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    failed = []
    for name in [arguments.only] if arguments.only else names:
        result = _run(name, fast=arguments.fast)
        print(json.dumps(result), flush=True)
        if not result["ok"]:
            failed.append(name)
        _keep(results, name, result)
    RESULTS.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")
    EVIDENCE.write_text(_page(shows, results))
    total = 1 if arguments.only else len(names)
    print(f"{total - len(failed)} passed, {len(failed)} failed")
    return 1 if failed else 0


def _scripts(show: dict[str, Any]) -> list[str]:
    """The scripts of a Show: none while it is not built, and one row of the page for each."""
    only = show.get("only", [])
    return [only] if isinstance(only, str) else list(only)


def _run(name: str, *, fast: bool) -> dict[str, Any]:
    """One script as a process of its own; its last line is its result."""
    print(f"== {name}", file=sys.stderr, flush=True)
    command = [sys.executable, "-m", f"tests.accept.{name.replace('-', '_')}", *(["--fast"] if fast else [])]
    try:
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, timeout=SCRIPT_S_MAX, check=False)
        result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    except (subprocess.TimeoutExpired, IndexError, json.JSONDecodeError) as error:
        return {"name": name, "ok": False, "figures": {"failed": f"{type(error).__name__}: no result", "fast": fast}}
    result["ok"] = result["ok"] and done.returncode == 0
    return result


def _keep(results: dict[str, Any], name: str, result: dict[str, Any]) -> None:
    """A FAST run is kept only where no full run is, unless it failed: then the old line is no longer true."""
    old = results.get(name)
    fast = result["figures"].get("fast", False)
    if fast and result["ok"] and old and old["ok"] and not old["figures"].get("fast", False):
        return
    results[name] = result | {"commit": _commit(), "date": datetime.datetime.now(datetime.UTC).date().isoformat()}


def _commit() -> str:
    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()

    dirty = [line for line in git("status", "--porcelain").splitlines() if "docs/evidence." not in line]
    return git("rev-parse", "--short", "HEAD") + ("+" if dirty else "")


def _page(shows: list[dict[str, Any]], results: dict[str, Any]) -> str:
    lines = [
        "# Evidence",
        "",
        "Written by `make accept`. One line for each Show of the open issues: the command that anyone can run, what it",
        "printed, and when. A commit with `+` had uncommitted changes. A FAST run never replaces a full one.",
        "",
        "| Show | holds | command | figures | commit | date |",
        "|---|---|---|---|---|---|",
    ]
    for show in shows:
        where = f"{show['issue']}.{show['number']} {show['title']}"
        if "command" in show:
            lines.append(f"| {where} | by its tier | `{show['command']}` | | | |")
        elif "only" not in show:
            lines.append(f"| {where} | not yet |  | | | |")
        lines += [_row(where, name, results.get(name)) for name in _scripts(show)]
    return "\n".join(lines) + "\n"


def _row(where: str, name: str, result: dict[str, Any] | None) -> str:
    command = f"`make accept ONLY={name}`"
    if result is None:
        return f"| {where} | not yet | {command} | | | |"
    figures = ", ".join(f"{key} {_shown(value)}" for key, value in result["figures"].items() if key != "fast")
    fast = " (FAST)" if result["figures"].get("fast") else ""
    short = result["figures"].get("falls_short")
    holds = ("falls short" if short else "yes" if result["ok"] else "NO") + fast
    return f"| {where} | {holds} | {command} | {figures} | {result['commit']} | {result['date']} |"


def _shown(value: Any) -> str:
    return str(value).replace("|", "/").replace("\n", " ")


if __name__ == "__main__":
    sys.exit(main())
