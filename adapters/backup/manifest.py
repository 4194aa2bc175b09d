"""What a backup says about itself, and which files of a data directory belong into one."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

from core.kernel.errors import HivebusError

FORMAT = 1

STORE = "store.db"
SECRETS = "secrets"
BLOBS = "blobs"
MANIFEST = "manifest.json"
# The last member: a file that ends before it was cut, and a manifest that does not hash to it was changed.
SEAL = "manifest.sha256"

# What the next start makes again, or what belongs to this run of the program alone. Whatever is not named here goes
# into a backup: a file that somebody adds and forgets makes a backup larger, never useless.
LEFT_OUT = (
    # A copy under load would be torn; the store holds every commit of the log byte for byte.
    "nats",
    "broker",
    "views*",
    f"{STORE}-*",
    "scheduler.image",
    "workspaces",
    # Agent hosts beside the program: each is made anew by its next start.
    "hosts",
    "connection.json",
    "lock",
    "*.lock",
    "backup.json",
    "before-*",
    "restoring",
    "lost+found",
    "*.new",
    "*.pid",
    "*.sock",
)


class BackupRefused(HivebusError):
    """A backup or a restore that was not done: what stood in the way, and what to do."""

    default_code = "backup_refused"


class Member(Struct, frozen=True):
    """A file other than a blob: its path in the data directory, its size in bytes and its SHA-256 in hex."""

    name: str
    size: int
    sha256: str


class Manifest(Struct, frozen=True, kw_only=True):
    """What a backup holds. A blob is named by its hash, so that of blobs the number and the bytes are enough.

    `root` is the Merkle tree head over the commits up to `position`, in hex; times are RFC 3339.
    """

    format: int
    program: str
    store_revision: str
    position: int
    root: str
    recorded_at: str | None
    created_at: str
    files: tuple[Member, ...]
    blobs: int
    blob_bytes: int


def is_left_out(name: str) -> bool:
    """Whether an entry of the data directory is no part of a backup."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in LEFT_OUT)


def kept_files(root: Path, *, secrets: bool) -> Iterator[Path]:
    """The small files of a data directory that a backup holds: all but the store, the blobs and what is left out."""
    for entry in sorted(root.iterdir()):
        if is_left_out(entry.name) or entry.name in (STORE, BLOBS) or (entry.name == SECRETS and not secrets):
            continue
        found = sorted(entry.rglob("*")) if entry.is_dir() else [entry]
        # A secret may be a link to where another program keeps it: its content is what a restored system needs.
        yield from (path for path in found if path.is_file())
