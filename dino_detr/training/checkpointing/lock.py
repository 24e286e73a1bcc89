"""A run folder belongs to one run at a time: `run.lock` in it names the process that has it."""

import atexit
import json
import os
import socket
import threading
import time
import uuid
from datetime import datetime
from pathlib import Path

import psutil
from transformers.utils import logging

from ...runs.names import LOCK

logger = logging.get_logger(__name__)

HEARTBEAT = 15.0  # seconds between signs of life: new times of the file
STALE = 120.0  # seconds without one after which a run on another machine is taken for gone
SETTLE = 1.0  # seconds after which one of several that took over the same folder sees that it has lost it


class FolderInUse(FileExistsError):
    """Another run has the folder."""


class FolderLost(Exception):
    """Another run has taken over the folder of this one, which had given no sign of life for long."""


class _Lock:
    """A lock of this process, kept alive by a thread."""

    def __init__(self, path: Path, holder: dict):
        self.path, self.holder = path, holder
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name=f"heartbeat of {path}", daemon=True)
        self._thread.start()

    def _beat(self) -> None:
        while not self._ended.wait(HEARTBEAT):
            try:
                if self.is_ours():
                    os.utime(self.path)
            except OSError:  # the disk is away for a moment, or for good: writing checkpoints says so
                pass

    def is_ours(self) -> bool:
        """Whether no other run has the folder. A lock that somebody deleted is made again."""
        holder = _read(self.path)
        if holder is None:
            return _create(self.path, self.holder)
        return holder == self.holder

    def release(self, path: Path) -> None:
        self._ended.set()
        self._thread.join()
        if _read(path) == self.holder:
            path.unlink()


_held: dict[Path, _Lock] = {}  # of this process, by the file's place


def lock_folder(folder: Path) -> None:
    """
    Make the folder, if it is not there, and take it for this process, until `unlock_folder` or the process's end.

    A lock whose process is gone is taken over. On this machine the process can be looked at; on another one it is gone
    if the lock shows no sign of life for `STALE` seconds. No clocks are compared.

    Raises:
        FolderInUse: if another run has it; says which. The folder is then as it was.
        OSError: if the folder cannot be written to.
    """
    path, mine = _lock_path(folder), _describe_this_process()
    taken_over = False
    path.parent.mkdir(parents=True, exist_ok=True)
    while not _holds(path):
        holder = _read(path)
        if holder is None:
            path.parent.mkdir(parents=True, exist_ok=True)
            _try_to_lock(path, mine, SETTLE if taken_over else 0.0)
        elif _is_alive(path, holder):
            raise FolderInUse(
                f"{folder} is in use by another run, {_describe(holder)}: choose another --output_dir, or wait until "
                "it has ended"
            )
        else:
            logger.warning(f"{folder}: the run that had it, {_describe(holder)}, is gone, and this one takes over")
            _remove_stale(path, holder)
            taken_over = True


def _holds(path: Path) -> bool:
    """Whether this process has the lock: no process that it was forked from, and nobody since."""
    lock = _held.get(path)
    return lock is not None and lock.holder["process"] == os.getpid() and lock.is_ours()


def _try_to_lock(path: Path, mine: dict, settle: float) -> None:
    """Have the lock among those held, unless another process is faster, also within `settle` seconds."""
    try:
        if _create(path, mine):
            time.sleep(settle)  # others may have found the one before stale at the same moment
            if _read(path) == mine:
                _held[path] = _Lock(path, mine)
    except BaseException:  # Ctrl-C at this very moment
        if path not in _held and _read(path) == mine:
            path.unlink()
        raise


def unlock_folder(folder: Path, now_at: Path | None = None) -> None:
    """Give the folder back, if this process has it; `now_at` is where it has been moved meanwhile."""
    lock = _held.pop(_lock_path(folder), None)
    if lock is not None and lock.holder["process"] == os.getpid():  # not in a data worker
        lock.release(lock.path if now_at is None else _lock_path(now_at))


def check_lock(folder: Path) -> None:
    """
    Check that a folder which this process locked still is its own, before something that counts is written.

    Raises:
        FolderLost: if another run has it, for this one had been asleep.
    """
    lock = _held.get(_lock_path(folder))
    if lock is not None and not lock.is_ours():
        raise FolderLost(f"{folder} was taken over by another run, {_describe(_read(lock.path) or {})}: this one ends "
                         "and writes nothing more")  # fmt: skip


@atexit.register
def _unlock_all() -> None:
    for path in list(_held):
        unlock_folder(path.parent)


def _lock_path(folder: Path) -> Path:
    return Path(folder).absolute() / LOCK


def _describe_this_process() -> dict:
    return {
        "host": socket.gethostname(),
        "process": os.getpid(),
        "since": datetime.now().astimezone().isoformat(timespec="seconds"),
        "started": _start_of(os.getpid()),
        "machine": _machine(),
        "token": uuid.uuid4().hex,
    }


def _machine() -> list[str]:
    """What two processes have in common if they can see one another. (Containers have process numbers of their own.)"""
    parts = [socket.gethostname()]
    try:
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    except OSError:  # not Linux
        parts.append(f"{uuid.getnode():x}")
    return parts


def _start_of(process: int) -> str | None:
    """When a process began, which tells it from a later one of the same number; None if that cannot be seen."""
    try:  # in ticks since the machine started: no clock that is set again moves it
        return (
            Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[19]
        )
    except (OSError, IndexError):
        pass
    try:
        return str(round(psutil.Process(process).create_time()))
    except psutil.Error:
        return None


def _is_alive(path: Path, holder: dict) -> bool:
    if holder.get("machine") == _machine():
        return _runs(holder["process"], holder["started"])
    return _gives_sign_of_life(path, holder)


def _runs(process: int, started: str | None) -> bool:
    if not psutil.pid_exists(process):
        return False
    try:
        if psutil.Process(process).status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD):
            return False
    except psutil.Error:  # hidden from this user
        return True
    now = _start_of(process)
    return now is None or started is None or now == started


def _gives_sign_of_life(path: Path, holder: dict) -> bool:
    """Wait until the lock changes, which it does while its run lives, or has not changed for `STALE` seconds."""
    logger.warning(
        f"{path.parent}: a run has it on another host, {_describe(holder)}; waiting up to {STALE:.0f} s to see whether "
        "it lives"
    )
    first, until = _time_of(path), time.monotonic() + STALE
    while time.monotonic() < until and first is not None:
        time.sleep(min(1.0, HEARTBEAT / 4))
        now = _time_of(path)
        if now != first:
            return now is not None and _read(path) == holder  # else the next look sees who has it now
    return False


def _time_of(path: Path) -> int | None:
    try:
        with open(path, "rb") as file:  # opened: shared file systems remember what they knew of one that is not
            return os.fstat(file.fileno()).st_mtime_ns
    except FileNotFoundError:
        return None


def _create(path: Path, holder: dict) -> bool:
    """Whether the lock could be made, with its content, where there was none."""
    temporary = path.with_name(f".{LOCK}.{holder['token']}")
    content = json.dumps(holder) + "\n"
    try:
        temporary.write_text(content, encoding="utf-8")
        try:
            os.link(temporary, path)  # whole or not at all, on shared file systems too
        except FileExistsError:
            return _read(path) == holder  # an answer that was lost on its way here
        except OSError:  # no links on this file system
            try:
                with open(path, "x", encoding="utf-8") as file:
                    file.write(content)
            except FileExistsError:
                return False
    finally:
        temporary.unlink(missing_ok=True)
    return True


def _read(path: Path) -> dict | None:
    """Who has the lock; empty if that is not a lock's content; None if there is no lock."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError:
        return {}
    return content if _names_a_process(content) else {}


def _names_a_process(content: object) -> bool:
    """Whether this is what `_describe_this_process` makes, and no other program's, or half of it."""
    if not isinstance(content, dict) or not {"process", "started", "machine"} <= content.keys():
        return False
    return type(content["process"]) is int and 0 < content["process"] < 2**31


def _remove_stale(path: Path, holder: dict) -> None:
    aside = path.with_name(f".{LOCK}.{uuid.uuid4().hex}.stale")
    try:
        path.rename(aside)
    except FileNotFoundError:  # another was faster
        return
    if _read(aside) != holder and not path.exists():  # and has it already: that is not the stale one
        aside.rename(path)
    else:
        aside.unlink()


def _describe(holder: dict) -> str:
    host, process, since = (holder.get(name, "unknown") for name in ("host", "process", "since"))
    return f"process {process} on host {host} since {since}"
