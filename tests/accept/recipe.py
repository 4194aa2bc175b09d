"""A page of docs/how-to carried out: its diffs applied to a copy of the repository."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from tests.accept.script import expect

ROOT = Path(__file__).parents[2]

_DIFF = re.compile(r"^```diff (\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def copied(folder: Path) -> Path:
    """What git knows of the repository, as it lies in the working tree, as a repository of its own."""
    copy = folder / "repository"
    for name in _git(ROOT, "ls-files", "-co", "--exclude-standard").splitlines():
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, copy / name)
    _git(copy, "init", "--quiet")
    _git(copy, "add", "--all")
    _git(copy, "-c", "user.name=test", "-c", "user.email=test@localhost", "commit", "--quiet", "-m", "As it was")
    return copy


def carry_out(page: Path, copy: Path) -> None:
    """Apply every block of the page that begins with "diff" and a path, each where its old lines stand, once."""
    blocks = _DIFF.findall(page.read_text("utf-8"))
    expect(blocks, f"{page.name} holds no diff")
    for name, block in blocks:
        # Editors take the space from an empty line of context.
        lines = [line if line.strip() else f" {line.lstrip(' ')}" for line in block.splitlines(keepends=True)]
        expect(all(line[0] in " +-" for line in lines), f"a diff for {name} has a line without a sign")
        old = "".join(line[1:] for line in lines if line[0] != "+")
        new = "".join(line[1:] for line in lines if line[0] != "-")
        text = (copy / name).read_text("utf-8")
        expect(text.count(old) == 1, f"{name} holds these lines {text.count(old)} times:\n{old}")
        (copy / name).write_text(text.replace(old, new), "utf-8")


def hand_written(copy: Path) -> str:
    """`git diff --stat` of what was changed, without the pages that are written from the program."""
    return _git(copy, "diff", "--stat=72", "--", ".", ":!docs/reference").rstrip("\n")


def _git(where: Path, *words: str) -> str:
    return subprocess.run(["git", *words], cwd=where, capture_output=True, text=True, check=True).stdout
