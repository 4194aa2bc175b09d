"""Backup and restore on the files of a data directory, without a program."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import io
import sqlite3
import stat
import tarfile
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from adapters.backup import store_copy
from adapters.backup.archive import verified
from adapters.backup.manifest import MANIFEST, SEAL, BackupRefused, Manifest, is_left_out
from adapters.backup.restoring import Restored, inspect, refuse_used, restore
from adapters.backup.taking import Progress, Taken, take
from adapters.blobs.files import FileBlobs
from adapters.data_format import head
from adapters.sql.store import SqlStore
from core.kernel.merkle import Frontier
from core.kernel.ports import Checkpoint
from tests.contracts.store import commit


def quiet(_done: int, _total: int) -> None: ...


class Growing:
    """A data directory whose store grows by commits, as the recorder writes them."""

    def __init__(self, root: Path, store: SqlStore) -> None:
        self.root = root
        self.store = store
        self.frontier = Frontier()
        self.checkpoint = Checkpoint()
        self.roots = {0: self.frontier.root().hex()}

    async def grow(self, count: int) -> None:
        recordings = []
        for position in range(self.checkpoint.position + 1, self.checkpoint.position + count + 1):
            recordings.append(commit(position, f"hive.log.task.t{position}"))
            self.frontier.append(recordings[-1].leaf)
            self.roots[position] = self.frontier.root().hex()
        new = Checkpoint(position=self.frontier.size, recorded_ms=1_000, frontier=self.frontier.encode())
        await self.store.record(recordings, old=self.checkpoint, new=new)
        self.checkpoint = new


@pytest.fixture
async def grown(tmp_path: Path) -> AsyncIterator[Growing]:
    """Twenty commits, two blobs, keys, a secret, and what a backup leaves out."""
    root = tmp_path / "data"
    root.mkdir(mode=0o700)
    store = await SqlStore.open(root / "store.db")
    growing = Growing(root, store)
    await growing.grow(20)
    blobs = FileBlobs(root)
    for data in (b"a large value", b"another"):
        await blobs.put(data)
    (root / "secrets").mkdir(mode=0o700)
    kept = {"admin.key": "hive_a_b", "host.id": "h", "fingerprint.key": "00", "secrets/TOKEN": "hidden"}
    for name in (*kept, "lock", "connection.json", "views.db", "views.db-wal", "scheduler.image"):
        (root / name).write_text(kept.get(name, "left out"))
        (root / name).chmod(0o600)
    (root / "nats").mkdir()
    (root / "nats" / "1.blk").write_text("left out")
    yield growing
    await store.close()


async def taken(
    growing: Growing,
    to: Path,
    *,
    force: bool = False,
    secrets: bool = True,
    compress: bool = False,
    progress: Progress = quiet,
) -> Taken:
    return await asyncio.to_thread(
        take,
        growing.root,
        to,
        program="0.1.0",
        now_ms=2_000,
        progress=progress,
        force=force,
        secrets=secrets,
        compress=compress,
    )


def restored(file: Path, root: Path) -> Restored:
    refuse_used(root)
    manifest = inspect(file, head(), quiet)
    root.mkdir(exist_ok=True, mode=0o700)
    return restore(file, root, manifest, quiet)


def tree(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def positions(store: Path) -> list[int]:
    with closing(sqlite3.connect(store)) as connection:
        return [row[0] for row in connection.execute("SELECT position FROM commits ORDER BY position")]


@pytest.mark.parametrize("compress", [False, True])
async def test_what_is_restored_is_what_was_backed_up(grown: Growing, tmp_path: Path, compress: bool) -> None:
    file = tmp_path / "backup.tar"

    said = await taken(grown, file, compress=compress)
    back = restored(file, tmp_path / "new")

    assert (said.position, said.root) == (20, grown.roots[20])
    assert (back.position, back.root, back.blobs) == (20, grown.roots[20], 2)
    store = await SqlStore.open(tmp_path / "new" / "store.db")
    assert await store.read(after=0, limit=100) == await grown.store.read(after=0, limit=100)
    assert await store.checkpoint() == grown.checkpoint
    await store.close()
    old, new = tree(grown.root), tree(tmp_path / "new")
    blobs = {name for name in old if name.startswith("blobs/")}
    assert len(blobs) == 2
    assert set(new) == {*blobs, "admin.key", "host.id", "fingerprint.key", "secrets/TOKEN", "store.db"}
    assert all(new[name] == old[name] for name in new if name != "store.db")


async def test_nobody_else_may_read_a_backup_or_what_is_restored_from_it(grown: Growing, tmp_path: Path) -> None:
    file = tmp_path / "backup.tar"

    await taken(grown, file)
    restored(file, tmp_path / "new")

    found = [file, *(tmp_path / "new").rglob("*")]
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in found if path.is_file()}
    assert set(modes.values()) == {0o600}, modes
    assert {stat.S_IMODE(path.stat().st_mode) for path in found if path.is_dir()} == {0o700}
    assert names(tmp_path) == ["backup.tar", "data", "new"]


async def test_a_backup_beside_a_busy_recorder_is_of_one_position(
    grown: Growing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_copy, "PAGES_PER_STEP", 8)
    await grown.grow(2_000)
    loop = asyncio.get_running_loop()

    def busy(_done: int, _total: int) -> None:
        asyncio.run_coroutine_threadsafe(grown.grow(1), loop).result()
        assert grown.checkpoint.position < 10_000, "the copy begins anew with each commit"

    said = await taken(grown, tmp_path / "backup.tar", progress=busy)
    back = restored(tmp_path / "backup.tar", tmp_path / "new")

    assert 2_020 <= said.position < grown.checkpoint.position
    assert said.root == grown.roots[said.position] == back.root
    assert positions(tmp_path / "new" / "store.db") == list(range(1, said.position + 1))


async def test_secrets_stay_out_when_that_is_wished(grown: Growing, tmp_path: Path) -> None:
    await taken(grown, tmp_path / "backup.tar", secrets=False)

    restored(tmp_path / "backup.tar", tmp_path / "new")

    assert not (tmp_path / "new" / "secrets").exists()
    assert b"hidden" not in (tmp_path / "backup.tar").read_bytes()


async def test_a_damaged_blob_is_named_and_left_out(grown: Growing, tmp_path: Path) -> None:
    name = hashlib.sha256(b"another").hexdigest()
    (grown.root / "blobs" / name[:2] / name).write_bytes(b"otherly")

    said = await taken(grown, tmp_path / "backup.tar")

    assert (said.damaged, said.blobs) == ((name,), 1)
    assert restored(tmp_path / "backup.tar", tmp_path / "new").blobs == 1


# --- where a backup is refused ----------------------------------------------------------------------------------------


async def test_an_existing_file_is_replaced_only_by_force(grown: Growing, tmp_path: Path) -> None:
    file = tmp_path / "backup.tar"
    file.write_text("precious")

    with pytest.raises(BackupRefused) as refused:
        await taken(grown, file)

    assert (refused.value.code, file.read_text()) == ("file_exists", "precious")
    await taken(grown, file, force=True)
    assert restored(file, tmp_path / "new").position == 20


async def test_a_backup_inside_the_data_directory_is_refused(grown: Growing) -> None:
    with pytest.raises(BackupRefused) as refused:
        await taken(grown, grown.root / "backup.tar")

    assert refused.value.code == "backup_inside"


async def test_a_full_disk_leaves_no_half_backup(
    grown: Growing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr("adapters.backup.taking.copy_store", full)

    with pytest.raises(BackupRefused) as refused:
        await taken(grown, tmp_path / "backup.tar")

    assert refused.value.code == "backup_failed"
    assert names(tmp_path) == ["data"]


# --- where a restore is refused ---------------------------------------------------------------------------------------


def rewritten(change: Callable[[Manifest], Manifest]) -> Callable[[Path], None]:
    """A backup whose manifest says something else, sealed anew: what another version, or a forger, would write."""

    def rewrite(file: Path) -> None:
        with tarfile.open(file) as tar:
            members = [(header, (tar.extractfile(header) or file.open("rb")).read()) for header in tar]
        manifest = msgspec.json.decode({header.name: data for header, data in members}[MANIFEST], type=Manifest)
        text = msgspec.json.encode(change(manifest))
        new = {MANIFEST: text, SEAL: hashlib.sha256(text).hexdigest().encode()}
        with tarfile.open(file, "w") as tar:
            for header, data in members:
                content = new.get(header.name, data)
                header.size = len(content)
                tar.addfile(header, io.BytesIO(content))

    return rewrite


def flipped(marker: bytes) -> Callable[[Path], None]:
    def flip(file: Path) -> None:
        data = bytearray(file.read_bytes())
        at = data.index(marker)
        data[at] ^= 1
        file.write_bytes(data)

    return flip


def cut(share: float) -> Callable[[Path], None]:
    def cutting(file: Path) -> None:
        data = file.read_bytes()
        file.write_bytes(data[: int(len(data) * share)])

    return cutting


DAMAGE: dict[str, Callable[[Path], None]] = {
    "cut in the store": cut(0.5),
    "cut before its end": lambda file: file.write_bytes(file.read_bytes()[: -11 * 1024]),
    "empty": lambda file: file.write_bytes(b""),
    "another file": lambda file: file.write_bytes(b"precious" * 1000),
    "cut gzip": lambda file: file.write_bytes(gzip.compress(file.read_bytes())[:-2000]),
    "a byte of a commit": flipped(b"body 7"),
    "a byte of a key": flipped(b"hive_a_b"),
    "a byte of a blob": flipped(b"a large value"),
    "a byte of the manifest": flipped(b'"position"'),
    "another position": rewritten(lambda manifest: msgspec.structs.replace(manifest, position=19)),
    "a file that is not listed": rewritten(
        lambda manifest: msgspec.structs.replace(manifest, files=manifest.files[:-1])
    ),
    "a blob too few": rewritten(lambda manifest: msgspec.structs.replace(manifest, blobs=3)),
}


@pytest.mark.parametrize("damage", DAMAGE)
async def test_a_damaged_backup_is_refused_and_nothing_is_written(grown: Growing, tmp_path: Path, damage: str) -> None:
    file, root = tmp_path / "backup.tar", tmp_path / "new"
    await taken(grown, file)
    DAMAGE[damage](file)

    with pytest.raises(BackupRefused) as refused:
        restored(file, root)

    assert refused.value.code == "backup_damaged"
    assert not root.exists() or not list(root.iterdir())


async def test_a_name_that_leads_out_of_the_data_directory_is_refused(grown: Growing, tmp_path: Path) -> None:
    file = tmp_path / "backup.tar"
    await taken(grown, file)
    with tarfile.open(file, "a") as tar:
        tar.add(tmp_path / "data" / "admin.key", "../../evil")

    with pytest.raises(BackupRefused) as refused:
        restored(file, tmp_path / "new")

    assert refused.value.code == "backup_damaged"


@pytest.mark.parametrize("newer", [{"format": 99}, {"store_revision": "9999"}])
async def test_a_backup_of_a_later_version_is_refused(grown: Growing, tmp_path: Path, newer: dict[str, object]) -> None:
    file = tmp_path / "backup.tar"
    await taken(grown, file)
    rewritten(lambda manifest: msgspec.structs.replace(manifest, **newer))(file)

    with pytest.raises(BackupRefused) as refused:
        restored(file, tmp_path / "new")

    assert refused.value.code == "backup_newer"
    assert not (tmp_path / "new").exists()


async def test_a_directory_in_use_is_never_written_to(grown: Growing, tmp_path: Path) -> None:
    file, root = tmp_path / "backup.tar", tmp_path / "new"
    await taken(grown, file)
    root.mkdir()
    (root / "store.db").write_text("precious")

    with pytest.raises(BackupRefused) as refused:
        restored(file, root)

    assert (refused.value.code, tree(root)) == ("data_dir_used", {"store.db": b"precious"})


async def test_an_empty_directory_and_a_fresh_file_system_are_restored_into(grown: Growing, tmp_path: Path) -> None:
    file, root = tmp_path / "backup.tar", tmp_path / "new"
    await taken(grown, file)
    (root / "lost+found").mkdir(parents=True)

    assert restored(file, root).position == 20


async def test_a_restore_that_was_interrupted_is_said_and_never_taken_for_a_whole_one(
    grown: Growing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, root = tmp_path / "backup.tar", tmp_path / "new"
    await taken(grown, file)
    manifest = verified(file, lambda _: None)
    (root / "restoring").mkdir(parents=True)

    with pytest.raises(BackupRefused) as refused:
        restored(file, root)

    assert "earlier restore" in refused.value.sentence
    assert manifest.position == 20


def test_what_is_left_out_is_only_what_a_start_makes_again() -> None:
    made_again = (
        "nats",
        "broker",
        "views.db",
        "views.db-wal",
        "store.db-wal",
        "scheduler.image",
        "lock",
        "backup.json",
    )
    needed = ("store.db", "blobs", "secrets", "admin.key", "host.id", "fingerprint.key", "heads.key", "format.json")

    assert all(map(is_left_out, made_again))
    assert not any(map(is_left_out, needed))
