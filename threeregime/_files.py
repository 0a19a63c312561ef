"""Files that several processes share: written whole, and claimed by one process at a time."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import resource
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from uuid import uuid4

PARTIAL = ".partial"
"""Ending of files that are being written; their names begin with a dot."""
PARTIAL_NAME = re.compile(r"\..*\.partial|\..+\.(parquet|safetensors|json)\..+")
"""Names of such files. Version 0.1 ended them with host and number of the process."""
ABANDONED_SECONDS = 3600.0
"""A file that has been partial for this long is a dead process's: writing takes seconds."""
HEARTBEAT_SECONDS = 15.0
"""Seconds after which a process renews its claims."""
LOCKING_SECONDS = 0.001
"""Seconds between two attempts to lock a claim that this process has just made."""
OTHER_FILES = 512
"""Number of files that a process may have open besides its claims."""
STALE_SECONDS = 120.0
"""A claim of another machine is stale if it was not renewed for this long."""


def atomic_write(path: Path, write: Callable[[Path], object]) -> None:
    """Call ``write(temporary path)`` and rename: readers see the whole file or none.

    The content is on the disk before the file has its name, so that it is whole after a power cut.

    Raises:
        OSError: it cannot be written; names the file.
    """
    try:
        _write_partial(path, write)
    except OSError as error:
        # Libraries say what went wrong, but not always where, and some say it in several lines.
        reason = " ".join((error.strerror or str(error)).split())
        raise OSError(error.errno or errno.EIO, reason, str(path)) from error


def _write_partial(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file under a name of its own, and rename it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Processes in containers may share the name of the host and their number.
    partial = path.with_name(f".{path.name[:200]}.{uuid4().hex}{PARTIAL}")
    try:
        write(partial)
        _flush(partial)
        os.replace(partial, path)
        _flush(path.parent)
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    """Have the system write a file, or the names in a folder, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some file systems cannot do it for a folder
            raise
    finally:
        os.close(handle)


def check_writable(folder: Path) -> None:
    """Make a folder, and a file in it, as a check before long computations.

    Raises:
        OSError: the folder, or a file in it, cannot be made; names it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _clock(folder)


def make_private(folder: Path) -> Path:
    """Make a folder that this user alone may write to, and return it.

    Raises:
        OSError: it cannot be made, or it is a link or of another user, who could put files there.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    facts = folder.lstat()
    if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != os.getuid():
        reason = "of another user, or a link: set XDG_CACHE_HOME to a folder of your own"
        raise OSError(errno.EPERM, reason, str(folder))
    if stat.S_IMODE(facts.st_mode) != 0o700:
        folder.chmod(0o700)
    return folder


def is_private(path: Path) -> bool:
    """Return whether a path is a file of this user that nobody else may write to."""
    try:
        facts = path.lstat()
    except OSError:
        return False
    own = stat.S_ISREG(facts.st_mode) and facts.st_uid == os.getuid()
    return own and not facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def remove_partial(folder: Path) -> None:
    """Remove the partial files that processes left in a folder when they were killed."""
    with suppress(OSError):
        partial = [path for path in folder.glob(".*") if PARTIAL_NAME.fullmatch(path.name)]
        now = _clock(folder) if partial else 0.0
        for path in partial:
            with suppress(OSError):
                if now - path.stat().st_mtime > ABANDONED_SECONDS:
                    path.unlink()


def _clock(folder: Path) -> float:
    """Return the time by which a folder's file system dates its files, in seconds."""
    path = folder / f".{uuid4().hex}{PARTIAL}"
    path.touch()
    try:
        return path.stat().st_mtime
    finally:
        path.unlink()


# --- claims


@dataclass(frozen=True)
class Holder:
    """Who holds a claim: a process on a machine, since when, and the machine's last boot."""

    host: str
    process: int
    since: str
    boot: str
    token: str

    def __str__(self) -> str:
        return f"process {self.process} on {self.host}, since {self.since}"


class HeldError(Exception):
    """A claim is held by another process; the message names it."""


@contextmanager
def claims(paths: Iterable[Path]) -> Iterator[None]:
    """Return a context in which this process alone holds some claims.

    A claim is a file. Its holder has locked it, which ends with the process, and renews its date,
    since locks are not seen by other machines on all shared file systems. So a claim is stale if
    nobody has it locked, and it is of this machine or was not renewed for `STALE_SECONDS`.

    Args:
        paths: the files; they are removed when the context ends.

    Raises:
        HeldError: another process holds one of them, or another context of this process.
    """
    paths = sorted(paths)
    _allow_open_files(len(paths))
    holder = _this_process()
    ended = threading.Event()
    with contextlib.ExitStack() as stack:
        # In order: of two processes that want the same claims, one gets the first and thereby all.
        handles = [stack.enter_context(_claim(path, holder)) for path in paths]
        heartbeat = threading.Thread(target=_renew, args=(handles, ended), daemon=True)
        heartbeat.start()
        try:
            yield
        finally:
            ended.set()
            heartbeat.join()


def _allow_open_files(count: int) -> None:
    """Let the process open this many more files, as far as the system allows it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + OTHER_FILES
    if soft != resource.RLIM_INFINITY and wanted > soft:
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def remove_stale(paths: Iterable[Path]) -> None:
    """Remove the claims among some files that no process holds."""
    for path in paths:
        with suppress(HeldError, OSError), claims([path]):
            pass


def _renew(handles: Iterable[int], ended: threading.Event) -> None:
    while not ended.wait(HEARTBEAT_SECONDS):
        for handle in handles:
            with suppress(OSError):
                os.utime(handle)


@contextmanager
def _claim(path: Path, holder: Holder) -> Iterator[int]:
    """Hold one claim; yield the handle of its file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = _open_claim(path)
    try:
        text = json.dumps(asdict(holder)).encode()
        os.ftruncate(handle, 0)
        os.pwrite(handle, text, 0)
        yield handle
    finally:
        # Removed before the lock ends: whoever opened the file finds that it lost its name.
        with suppress(OSError):
            if os.pread(handle, 4096, 0) == text and _is_named(path, handle):
                path.unlink(missing_ok=True)
        os.close(handle)


def _open_claim(path: Path) -> int:
    """Return the handle of a claim's file, locked; raise HeldError if it is held."""
    while True:
        try:
            handle, is_new = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL), True
        except FileExistsError:
            try:
                handle, is_new = os.open(path, os.O_RDWR), False
            except FileNotFoundError:
                continue  # it ended meanwhile
        try:
            locked, other = _lock(handle), _read_holder(handle)
            # Who opens a new claim before its maker locks it locks it to see whether it is stale,
            # and lets go. A maker that gave up then would leave a claim that nobody holds.
            while is_new and not locked and other is None:
                time.sleep(LOCKING_SECONDS)
                locked, other = _lock(handle), _read_holder(handle)
            if not locked or not (is_new or _is_stale(path, handle, other)):
                raise HeldError(str(other or "another process"))
            if _is_named(path, handle):
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)  # it ended between its opening and its locking


def _lock(handle: int) -> bool:
    """Lock a file; return False if another process has locked it."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass  # a file system without locks: the dates of claims decide
    return True


def _is_stale(path: Path, handle: int, holder: Holder | None) -> bool:
    """Return whether a claim that nobody has locked is stale."""
    if holder is not None and holder.boot == _boot():
        return True
    return _clock(path.parent) - os.fstat(handle).st_mtime > STALE_SECONDS


def _is_named(path: Path, handle: int) -> bool:
    """Return whether an open file still has its name."""
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def _read_holder(handle: int) -> Holder | None:
    try:
        return Holder(**json.loads(os.pread(handle, 4096, 0)))
    except (ValueError, TypeError, RecursionError):
        return None  # it is being written


def _this_process() -> Holder:
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    return Holder(socket.gethostname(), os.getpid(), since, _boot(), uuid4().hex)


def _boot() -> str:
    """Return an identity of this machine's running system, which its containers share."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
    except OSError:
        return socket.gethostname()
