"""The data folder's upkeep: rebuild the view from the journal, copy the journal away, bring a copy back."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import re
import shutil
import tarfile
import time
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

from tallystick.collector.apply import Applier
from tallystick.collector.archive import LEDGER
from tallystick.collector.decode import Decoder
from tallystick.collector.folder import Folder, own, sync_folder
from tallystick.collector.journal import Journal, segments_in
from tallystick.collector.making import Here
from tallystick.collector.repricer import is_pending
from tallystick.collector.settings import CollectorSettings
from tallystick.collector.store import Store, open_or_set_aside
from tallystick.errors import StoreError
from tallystick.model.segment import SUFFIX, read_records
from tallystick.pricing import Shelf

log = logging.getLogger("tallystick.upkeep")

MANIFEST = "manifest.json"
MANIFEST_BYTES_MAX = 16 * 1024 * 1024
MEMBER = re.compile(r"journal/[0-9]{8}\.tly(\.gz)?|archive/([0-9]{8}[-/][a-z_]{1,32}\.parquet|ledger\.json)")
COPY_BYTES = 1024 * 1024
RESTORING = "restoring"
REBUILD = "a rebuild"


def rebuild(collector: CollectorSettings) -> Mapping[str, int]:
    """Set the database aside, make it anew from the journal, and return the ledger's counters.

    Raises StoreLockedError while a collector runs.  Killed in the middle, it is gone on with by the next collector.
    """
    folder = own(collector.data, REBUILD)
    try:
        return _rebuild(folder, collector)
    finally:
        folder.release()


def _rebuild(folder: Folder, collector: CollectorSettings) -> Mapping[str, int]:
    for path in (folder.database, folder.database.with_name(folder.database.name + ".wal")):
        if path.exists():
            path.rename(folder.aside / f"{time.time_ns()}-{path.name}")

    def open_store() -> tuple[Store, str | None]:
        store, _ = open_or_set_aside(
            folder.database, folder.aside, collector.memory_limit_mb, collector.query_timeout_s
        )
        return store, f"rebuilding {folder.database} from {folder.journal}"

    journal = Journal(folder.journal, collector.segment_bytes_max)
    shelf = Shelf(folder.path / "prices")
    decoder = Decoder(shelf.price, collector.spans_max, collector.attributes_max)
    applier = Applier(journal, open_store, Here(decoder), folder.aside / "records.tly", group_ms=1)
    applier.start()
    try:
        while not applier.wait_applied(journal.end, timeout_s=1.0):
            if applier.trouble() is not None:
                raise StoreError(f"cannot rebuild {folder.database}: {applier.trouble()}")
        while is_pending(applier.ask):
            time.sleep(0.05)
        return dict(applier.store.counters)
    finally:
        journal.close()
        applier.stop()


def backup(data: Path, target: Path) -> int:
    """Copy journal and archive of ``data`` to ``target``, a gzipped tar, and return their bytes before compression.

    Everything that was acknowledged before is in it, also while a collector runs: the journal only grows, so what it
    held at one moment is its beginning.  What moves to the archive meanwhile has it begin again.  ``target`` is there
    whole or not at all.
    """
    if target.exists():
        raise StoreError(f"{target} is there already; name another file, or remove it")
    if not segments_in(data / "journal"):
        raise StoreError(f"{data} has no journal; name the collector's data folder with --data")
    part = target.with_name(target.name + ".part")
    fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(fd, "wb") as file:
            while (copied := _copy(file, data)) is None:
                log.info("the archive changed while it was copied; beginning again")
            file.flush()
            os.fsync(file.fileno())
        part.rename(target)
    except OSError as error:
        raise StoreError(f"cannot write {target}: {error.strerror or error}") from error
    finally:
        part.unlink(missing_ok=True)
    sync_folder(target.absolute().parent)
    return copied


def _copy(file: IO[bytes], data: Path) -> int | None:
    """Write the whole copy; None when something moved from the journal to the archive meanwhile."""
    before = _ledger(data)
    sizes = {path: path.stat().st_size for path in segments_in(data / "journal")}
    file.seek(0)
    file.truncate()
    try:
        with tarfile.open(fileobj=file, mode="w:gz", compresslevel=1) as tar:
            copied = _copy_all(tar, sizes, data / "archive")
    except FileNotFoundError:  # it was compressed, or emptied
        return None
    return copied if _ledger(data) == before else None


def _ledger(data: Path) -> bytes:
    with suppress(FileNotFoundError):
        return (data / "archive" / LEDGER).read_bytes()
    return b""


def _copy_all(tar: tarfile.TarFile, sizes: Mapping[Path, int], archive: Path) -> int:
    sums: dict[str, Any] = {}

    def add(name: str, data: bytes) -> None:
        _add(tar, name, data)
        sums[name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}

    newest = max(sizes)
    for path, size in sizes.items():
        with path.open("rb") as file:
            data = file.read(size)
        if path == newest and path.suffix == SUFFIX:  # it may be in the middle of a write
            data = data[: max((found.end for found in read_records(data)), default=0)]
        add(f"journal/{path.name}", data)
    for path in sorted(archive.rglob("*")):
        name = f"archive/{path.relative_to(archive).as_posix()}"
        if MEMBER.fullmatch(name):
            add(name, path.read_bytes())
    made = {"tallystick": version("tallystick"), "made_at_ns": time.time_ns(), "segments": sums}
    _add(tar, MANIFEST, json.dumps(made, indent=1).encode())
    return sum(entry["bytes"] for entry in sums.values())


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.mtime = len(data), 0o600, int(time.time())
    tar.addfile(info, io.BytesIO(data))


def restore(source: Path, data: Path) -> int:
    """Bring journal and archive in ``source`` to ``data``, which must hold none; return their bytes.

    It is checked against the sums that `backup` wrote down, and put into place only when all of it is there.
    """
    folder = own(data, "a restore")
    try:
        if any(folder.journal.iterdir()) or folder.database.exists():
            raise StoreError(f"{data} holds a journal or a database already; name an empty folder with --data")
        arriving = folder.path / RESTORING
        shutil.rmtree(arriving, ignore_errors=True)
        arriving.mkdir(mode=0o700)
        copied = _extract(source, arriving)
        for name in ("archive", "journal"):  # the journal last: with it the folder is one that holds something
            if (arriving / name).exists():
                sync_folder(arriving / name)
                (arriving / name).rename(folder.path / name)
        arriving.rmdir()
        sync_folder(folder.path)
        return copied
    finally:
        folder.release()


def _extract(source: Path, arriving: Path) -> int:
    sums: dict[str, Any] = {}
    stated: Any = None
    try:
        with tarfile.open(source, mode="r:gz") as tar:
            for member in tar:
                file = tar.extractfile(member) if member.isreg() else None
                found = MEMBER.fullmatch(member.name)
                if file is not None and member.name == MANIFEST and member.size <= MANIFEST_BYTES_MAX:
                    stated = json.loads(file.read())["segments"]
                elif file is not None and found and member.name not in sums:
                    path = arriving / member.name
                    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                    sums[member.name] = _write(file, path)
                else:
                    raise StoreError(f"{source} is no backup of tallystick: it holds {member.name[:80]!r}")
    except (tarfile.TarError, OSError, EOFError, ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{source} cannot be read as a backup: {type(error).__name__}: {error}") from error
    if stated != sums:
        raise StoreError(f"{source} is damaged: its contents do not have the sums that it states; use another backup")
    return sum(segment["bytes"] for segment in sums.values())


def _write(file: IO[bytes], path: Path) -> dict[str, Any]:
    digest, size = hashlib.sha256(), 0
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(fd, "wb") as copy:
        while data := file.read(COPY_BYTES):
            copy.write(data)
            digest.update(data)
            size += len(data)
        copy.flush()
        os.fsync(copy.fileno())
    return {"bytes": size, "sha256": digest.hexdigest()}
