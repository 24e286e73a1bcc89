"""Promise 26: a run folder belongs to one run at a time."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from helpers.launching import ENVIRONMENT, ROOT, TWO_PROCESSES, run

from dino_detr.runs.names import LOCK
from dino_detr.training import parse_options, prepare
from dino_detr.training.checkpointing import lock
from dino_detr.training.checkpointing.lock import FolderInUse, FolderLost, check_lock, lock_folder, unlock_folder

FORK = multiprocessing.get_context("fork")


def _hold(folder: Path, held) -> None:
    lock_folder(folder)
    held.set()
    time.sleep(600)


@pytest.fixture
def other(tmp_path):
    """Another process, which has the folder `run`."""
    held = FORK.Event()
    process = FORK.Process(target=_hold, args=(tmp_path / "run", held))
    process.start()
    assert held.wait(30)
    yield process
    process.kill()
    process.join()
    unlock_folder(tmp_path / "run")


def content_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def from_elsewhere(folder: Path, **changes) -> None:
    """The lock in the folder, as if a process of another machine had made it."""
    holder = json.loads((folder / LOCK).read_text()) | {"host": "node7", "machine": ["node7", "x", "y"]} | changes
    (folder / LOCK).write_text(json.dumps(holder))


@pytest.mark.parametrize("how", [[], ["--overwrite"], ["--resume_from_checkpoint", "latest"]], ids=str)
def test_the_second_run_says_who_has_the_folder_and_changes_nothing(recipe, other, tmp_path, how):
    folder = tmp_path / "run"
    (folder / "metrics.jsonl").write_text('{"step": 1}\n')
    before = content_of(folder)
    with pytest.raises(FolderInUse, match=rf"run is in use by another run, process {other.pid} on host .* since 20"):
        prepare(parse_options([str(recipe), "--output_dir", str(folder), *how]))
    assert content_of(folder) == before and [path.name for path in tmp_path.iterdir()] == ["run"]


def test_two_processes_of_one_run_both_end_if_another_has_the_folder(recipe, other, tmp_path):
    command = [sys.executable, *TWO_PROCESSES, "train.py", recipe, "--output_dir", tmp_path / "run"]
    output = run(*command, expect=1, timeout=300)
    assert f"in use by another run, process {other.pid}" in output and "output_dir.py" not in output
    assert [path.name for path in (tmp_path / "run").iterdir()] == [LOCK]


def test_a_killed_run_leaves_the_folder_to_the_next(other, tmp_path, caplog):
    """Also while its parent has not asked for its end, and where its number is another process's now."""
    folder = tmp_path / "run"
    other.kill()
    os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)  # a zombie
    lock_folder(folder)
    assert f"process {other.pid}" in caplog.text and "is gone, and this one takes over" in caplog.text
    content = json.loads((folder / LOCK).read_text())
    unlock_folder(folder)
    assert not list(folder.iterdir())
    (folder / LOCK).write_text(json.dumps(content | {"process": os.getppid(), "started": "1", "token": "another"}))
    lock_folder(folder)
    assert json.loads((folder / LOCK).read_text())["process"] == os.getpid()


@pytest.mark.parametrize(
    "change", [{"process": "12"}, {"process": 10**30}, {"process": -1}, {"process": None}, {"machine": None}, None]
)
def test_a_lock_that_is_none_is_taken_over_as_one_without_signs_of_life(tmp_path, monkeypatch, change):
    """Half of one, another program's, or one that somebody edited."""
    monkeypatch.setattr(lock, "STALE", 0.1)
    monkeypatch.setattr(lock, "SETTLE", 0.0)
    content = lock._describe_this_process() | (change or {})
    if change is None:
        del content["process"]
    (tmp_path / LOCK).write_text(json.dumps(content))
    lock_folder(tmp_path)
    assert json.loads((tmp_path / LOCK).read_text())["process"] == os.getpid()
    unlock_folder(tmp_path)


def test_another_hosts_run_is_watched_for_signs_of_life(other, tmp_path, monkeypatch, caplog):
    """By the lock's time, whatever that is; no clock of this machine counts."""
    folder = tmp_path / "run"
    monkeypatch.setattr(lock, "HEARTBEAT", 0.2)
    monkeypatch.setattr(lock, "STALE", 2.0)
    from_elsewhere(folder)
    os.utime(folder / LOCK, (0, 0))  # a clock that is 50 years behind
    beating = threading.Thread(target=lambda: [time.sleep(0.5), os.utime(folder / LOCK, (1, 1))])
    beating.start()
    with pytest.raises(FolderInUse, match="on host node7"):
        lock_folder(folder)
    beating.join()
    os.utime(folder / LOCK, (2**33, 2**33))
    started = time.monotonic()
    lock_folder(folder)
    assert 2 <= time.monotonic() - started < 10
    assert "waiting up to 2 s to see whether it lives" in caplog.text and "this one takes over" in caplog.text


def test_a_run_that_lives_gives_signs_of_life(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "HEARTBEAT", 0.05)
    lock_folder(tmp_path / "run")
    os.utime(tmp_path / "run" / LOCK, (0, 0))
    time.sleep(0.5)
    assert (tmp_path / "run" / LOCK).stat().st_mtime > 0
    unlock_folder(tmp_path / "run")


def _race(folder: Path, start, results) -> None:
    start.wait()
    try:
        lock_folder(folder)
        results.put(os.getpid())
        time.sleep(5)
    except FolderInUse:
        results.put(None)


@pytest.mark.parametrize("stale", [False, True])
@pytest.mark.parametrize("links", [True, False])
def test_of_runs_that_start_at_one_moment_one_gets_the_folder(tmp_path, monkeypatch, stale, links):
    if not links:
        monkeypatch.setattr(os, "link", lambda *_: exec("raise PermissionError"))
    if stale:
        lock_folder(tmp_path / "run")
        holder = json.loads((tmp_path / "run" / LOCK).read_text())
        unlock_folder(tmp_path / "run")
        (tmp_path / "run" / LOCK).write_text(json.dumps(holder | {"process": 2**22 + 1}))
    start, results = FORK.Barrier(6), FORK.Queue()
    racers = [FORK.Process(target=_race, args=(tmp_path / "run", start, results)) for _ in range(6)]
    for racer in racers:
        racer.start()
    got = [results.get(timeout=60) for _ in racers]
    for racer in racers:
        racer.kill()
        racer.join()
    assert sum(pid is not None for pid in got) == 1


def test_a_run_that_slept_while_another_took_its_folder_writes_nothing_more(tmp_path):
    folder = tmp_path / "run"
    lock_folder(folder)
    check_lock(folder)
    (folder / LOCK).unlink()  # by hand: it is made again
    check_lock(folder)
    assert json.loads((folder / LOCK).read_text())["process"] == os.getpid()
    from_elsewhere(folder, token="another")
    with pytest.raises(FolderLost, match=r"was taken over by another run, .* on host node7"):
        check_lock(folder)
    unlock_folder(folder)
    assert (folder / LOCK).exists()  # the other's


@pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
def test_a_run_that_is_stopped_before_its_first_step_gives_the_folder_back(recipe, tmp_path, number, status):
    folder = tmp_path / "run"
    command = [sys.executable, "train.py", recipe, "--output_dir", folder]
    process = subprocess.Popen(
        [str(part) for part in command], cwd=ROOT, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True
    )
    while process.poll() is None and not (folder / LOCK).exists():
        time.sleep(0.002)
    process.send_signal(number)
    _, output = process.communicate(timeout=120)
    assert process.returncode == status, output
    assert "Traceback" not in output and "dino-detr: stopped" in output
    assert not (folder / LOCK).exists()
