"""Checkpoints of a run: whole or absent, and found again."""

import errno
import json
import re
import shutil
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError, safe_open
from transformers.utils import logging

from ...runs.names import (
    AVERAGE,
    CONFIG_JSON,
    FILES_JSON,
    TRAINER_STATE_JSON,
    checkpoint_folder,
    checkpoint_step,
    partial_path,
)
from .lock import check_lock

logger = logging.get_logger(__name__)

TRAINING_STATE = ("optimizer.pt", "scheduler.pt")  # beside rng_state.pth, or rng_state_<process>.pth of several
_NEEDED = re.compile(r".*\.(safetensors|pt|pth)|(config|model\.safetensors\.index)\.json")


@contextmanager
def written_whole(checkpoint: Path, size: int, main_process: bool, wait: Callable[[], None]) -> Iterator[Path]:
    """
    Yield a folder into which all processes write a checkpoint. It gets its name when all is there: a kill leaves no
    half of one.

    Args:
        size: bytes of the checkpoint, about.
        main_process: whether this is the one that makes, lists and renames the folder.
        wait: for all processes.

    Raises:
        FolderLost: if another run has taken the run folder meanwhile.
        OSError: with ENOSPC, if the disk is full.
    """
    partial = partial_path(checkpoint)
    if main_process:
        check_lock(checkpoint.parent)
    try:
        if main_process:
            shutil.rmtree(partial, ignore_errors=True)
        wait()
        yield partial
        wait()
        if main_process:
            list_files(partial)
    except (OSError, RuntimeError, SafetensorError) as fault:
        if not _disk_is_full(fault, checkpoint.parent, size):
            raise
        shutil.rmtree(partial, ignore_errors=True)
        raise OSError(
            errno.ENOSPC,
            f"no room for {checkpoint}: make some and go on with --resume_from_checkpoint latest; the checkpoints "
            "before it are whole",
        ) from fault
    if main_process:
        publish_checkpoint(checkpoint)


def _disk_is_full(fault: Exception, folder: Path, size: int) -> bool:
    """Tell whether it is. torch.save and safetensors do not always say why they failed to write."""
    if getattr(fault, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(fault):
        return True
    return shutil.disk_usage(folder).free < size


def list_files(checkpoint: Path) -> None:
    """Write the names and sizes of the files that resuming needs to `files.json`, by which a loss is seen later."""
    sizes = {
        path.relative_to(checkpoint).as_posix(): path.stat().st_size
        for path in sorted(checkpoint.rglob("*"))
        if _NEEDED.fullmatch(path.name)
    }
    (checkpoint / FILES_JSON).write_text(json.dumps(sizes, indent=2) + "\n", encoding="utf-8")


def publish_checkpoint(checkpoint: Path) -> None:
    """Give the finished `partial_path` its name; one that a run before left there goes when the new one is there."""
    former = checkpoint.with_name(f".{checkpoint.name}.former")
    shutil.rmtree(former, ignore_errors=True)
    if checkpoint.exists():
        checkpoint.rename(former)
    partial_path(checkpoint).rename(checkpoint)
    shutil.rmtree(former, ignore_errors=True)


def numbered_checkpoints(run_folder: Path) -> dict[int, Path]:
    """Return the folders `checkpoint-<step>` by step, in ascending order. A user's own `checkpoint-5-copy` is none."""
    found = {checkpoint_step(folder): folder for folder in run_folder.glob("checkpoint-*") if folder.is_dir()}
    return {step: found[step] for step in sorted(step for step in found if step is not None)}


def delete_oldest(run_folder: Path, limit: int | None, step: int, best: str | None) -> None:
    """
    Delete checkpoints until `limit` are left, those of the fewest steps first.

    Steps count, not the times of files, which are another machine's on a shared disk. The checkpoint of `step`, just
    written, and the best stay whatever the limit is. So do those beyond `step`, which this run has not made.
    """
    if not limit or limit < 0:
        return
    made = [folder for number, folder in numbered_checkpoints(run_folder).items() if number <= step]
    kept = {checkpoint_folder(run_folder, step)} | ({Path(best)} if best else set())
    removable = [folder for folder in made if folder not in kept]
    for folder in removable[: max(len(made) - limit, 0)]:
        shutil.rmtree(folder, ignore_errors=True)


def find_checkpoint(run_folder: Path) -> Path | None:
    """
    The newest checkpoint that can be read. Damaged ones are named and passed over. None if the run has none yet.

    Raises:
        FileNotFoundError: if there are some and none can be resumed from.
    """
    found = numbered_checkpoints(run_folder)
    for folder in reversed(found.values()):
        fault = find_damage(folder)
        if fault is None:
            return folder
        logger.warning(f"{folder} is damaged and passed over: {fault}")
    if found:
        raise FileNotFoundError(f"{run_folder} holds no checkpoint that can be resumed from: {fault}")
    return None


def find_damage(checkpoint: Path) -> str | None:
    """What keeps a checkpoint from being resumed from: a file that is missing or cannot be read. None if nothing."""
    of_average = [f"{AVERAGE}/{CONFIG_JSON}"] if (checkpoint / AVERAGE).is_dir() else []
    for name in (CONFIG_JSON, *of_average, TRAINER_STATE_JSON):
        try:
            content = json.loads((checkpoint / name).read_text(encoding="utf-8"))
        except (OSError, ValueError) as fault:
            return f"{name}: {fault}"
        if not isinstance(content, dict):
            return f"{name}: it is not a mapping"
    step = content.get("global_step")
    if checkpoint_step(checkpoint) not in (None, step):
        return f"{TRAINER_STATE_JSON}: it is of step {step}"
    return _find_missing(checkpoint) or _find_broken(checkpoint)


def _find_missing(checkpoint: Path) -> str | None:
    names = {path.relative_to(checkpoint).as_posix() for path in checkpoint.rglob("*")}
    for name, size in _listed_files(checkpoint).items():
        if name not in names:
            return f"it has no {name}"
        if not name.endswith(".json") and (there := (checkpoint / name).stat().st_size) != size:
            return f"{name}: it has {there} bytes of {size}"
    random_states = [name for name in names if re.fullmatch(r"rng_state(_\d+)?\.pth", name)]
    missing = [name for name in TRAINING_STATE if name not in names] + ([] if random_states else ["rng_state.pth"])
    if len(missing) == len(TRAINING_STATE) + 1:
        return (
            "it holds weights only (save_only_model), no state of the optimizer to go on with; a new run can start "
            f"from them: --model {checkpoint}"
        )
    if missing:
        return f"it has no {missing[0]}"
    return _missing_weights(checkpoint) or (AVERAGE in names and _missing_weights(checkpoint / AVERAGE)) or None


def _listed_files(checkpoint: Path) -> dict[str, int]:
    """What `list_files` wrote; nothing of a checkpoint from before there was such a list."""
    try:
        listed = json.loads((checkpoint / FILES_JSON).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return listed if isinstance(listed, dict) else {}


def _missing_weights(folder: Path) -> str | None:
    index = folder / "model.safetensors.index.json"
    shards = ["model.safetensors"]
    if index.exists():
        try:
            shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as fault:
            return f"{index.name}: {fault!r}"
    prefix = f"{AVERAGE}/" if folder.name == AVERAGE else ""
    return next((f"it has no {prefix}{name}" for name in shards if not (folder / name).is_file()), None)


def _find_broken(checkpoint: Path) -> str | None:
    for path in sorted(checkpoint.rglob("*.safetensors")):
        try:
            with safe_open(path, framework="pt"):  # compares the header with the file's length
                pass
        except (OSError, SafetensorError) as fault:
            return f"{path.relative_to(checkpoint)}: {fault}"
    for path in sorted([*checkpoint.glob("*.pt"), *checkpoint.glob("*.pth")]):
        try:
            with zipfile.ZipFile(path) as archive:
                broken = archive.testzip()
        except Exception as fault:  # zipfile raises whatever comes, by where the damage is
            return f"{path.name}: {fault}"
        if broken:
            return f"{path.name}: {broken} does not have its checksum"
    return None


def find_inexact(checkpoint: Path, processes: int, averaged: bool, fp16: bool) -> list[str]:
    """What of a whole checkpoint cannot go on as it was under the options of this run, in words."""
    there = {path.name for path in checkpoint.glob("rng_state*.pth")}
    expected = {f"rng_state_{index}.pth" for index in range(processes)} if processes > 1 else {"rng_state.pth"}
    found = []
    if there != expected:
        found.append(f"it was saved by {len(there)} and goes on in {processes} processes, so random numbers start anew")
    if fp16 and not (checkpoint / "scaler.pt").exists():
        found.append("it has no scaler.pt, so the loss scale of fp16 starts anew")
    if averaged and not (checkpoint / AVERAGE).is_dir():
        found.append("it has no average of the weights, so that starts from these weights")
    if not averaged and (checkpoint / AVERAGE).is_dir():
        found.append("its average of the weights is left, for there is no ema_decay now")
    return found
