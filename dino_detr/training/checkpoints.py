"""Checkpoints of a run: whole or absent, and found again."""

import json
import re
import shutil
import zipfile
from pathlib import Path

from safetensors import SafetensorError, safe_open
from transformers.utils import logging

logger = logging.get_logger(__name__)


def partial_folder(checkpoint: Path) -> Path:
    """Where a checkpoint is written until it is whole."""
    return checkpoint.with_name(f".{checkpoint.name}.partial")


def publish_checkpoint(checkpoint: Path) -> None:
    """Give the finished `partial_folder` its name; one that a run before left there goes when the new one is there."""
    former = checkpoint.with_name(f".{checkpoint.name}.former")
    shutil.rmtree(former, ignore_errors=True)
    if checkpoint.exists():
        checkpoint.rename(former)
    partial_folder(checkpoint).rename(checkpoint)
    shutil.rmtree(former, ignore_errors=True)


def find_checkpoint(run_folder: Path) -> Path | None:
    """
    The newest checkpoint that can be read. Damaged ones are named and passed over. None if the run has none yet.

    Raises:
        FileNotFoundError: if all are damaged.
    """
    steps = {}
    for folder in run_folder.glob("checkpoint-*"):
        if match := re.fullmatch(r"checkpoint-(\d+)", folder.name):
            steps[int(match[1])] = folder
    for _, folder in sorted(steps.items(), reverse=True):
        fault = find_damage(folder)
        if fault is None:
            return folder
        logger.warning(f"{folder} is damaged and passed over: {fault}")
    if steps:
        raise FileNotFoundError(f"{run_folder} holds no checkpoint that can be read")
    return None


def find_damage(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint's files; None if each can be read."""
    for name in ("config.json", "trainer_state.json"):
        try:
            json.loads((checkpoint / name).read_text())
        except (OSError, ValueError) as fault:
            return f"{name}: {fault}"
    weights = sorted(checkpoint.glob("*.safetensors"))
    if not weights:
        return "it has no model.safetensors"
    for path in weights:
        try:
            with safe_open(path, framework="pt"):  # compares the header with the file's length
                pass
        except (OSError, SafetensorError) as fault:
            return f"{path.name}: {fault}"
    for path in sorted([*checkpoint.glob("*.pt"), *checkpoint.glob("*.pth")]):
        try:
            with zipfile.ZipFile(path) as archive:
                broken = archive.testzip()
        except (OSError, zipfile.BadZipFile) as fault:
            return f"{path.name}: {fault}"
        if broken:
            return f"{path.name}: {broken} does not have its checksum"
    return None
