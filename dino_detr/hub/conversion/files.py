"""Published checkpoint files, read without running anything that is in them."""

import argparse
import collections
import contextlib
import pickle
import pickletools
import re
import zipfile
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

# What published files hold beside tensors, by the names that pickles have: values, none of which does anything.
_scalar: Any = getattr(np, "_core", getattr(np, "core", None)).multiarray.scalar  # pyright: ignore
_HARMLESS: dict[str, Any] = {
    "argparse.Namespace": argparse.Namespace,
    "collections.OrderedDict": collections.OrderedDict,
    "collections.Counter": collections.Counter,
    "numpy.dtype": np.dtype,
    "numpy.core.multiarray.scalar": _scalar,
    "numpy._core.multiarray.scalar": _scalar,
    **{f"numpy.dtypes.{kind.__name__}": kind for kind in map(type, map(np.dtype, "?bhilqBHILQefd"))},
}
_RAW, _AVERAGED = ("model", "state_dict"), ("ema_state", "ema_model")


class PublishedFile(NamedTuple):
    """
    What a file holds.

    Args:
        weights: tensors by name, those of training.
        averaged: the running average of them, where it was kept; fewer names, or none.
        arguments: of the program that wrote it, where they were kept.
    """

    weights: dict[str, Tensor]
    averaged: dict[str, Tensor]
    arguments: dict[str, Any]


def read_published_file(path: str | Path) -> PublishedFile:
    """
    Read `.safetensors`, or a file of `torch.save` with an optimiser, arguments or numbers beside the weights.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it is damaged, holds no tensors, or holds objects that are more than values. Those are not made.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty")
    holder = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
    weights = next((holder[key] for key in _RAW if isinstance(holder.get(key), dict)), holder)
    averaged = next((holder[key] for key in _AVERAGED if isinstance(holder.get(key), dict)), {})
    tensors, averages = _tensors(weights), _tensors(averaged)
    if not tensors:
        raise ValueError(
            f"{path} holds no tensors by name; it has {', '.join(map(str, list(holder)[:5])) or 'nothing'}"
        )
    arguments = holder.get("args")
    return PublishedFile(tensors, averages, vars(arguments) if isinstance(arguments, argparse.Namespace) else {})


def _read_safetensors(path: Path) -> dict[str, Any]:
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(f"{path} is damaged or no safetensors file: {error}") from error


def _read_pickle(path: Path) -> dict[str, Any]:
    allowed: list[Any] = [(value, name) for name, value in _HARMLESS.items()]
    try:
        with torch.serialization.safe_globals(allowed):
            # what is mapped is read when it is used: an optimiser beside the weights is not
            holder = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise ValueError(_explain(path, str(error))) from error
    except Exception as error:  # damaged bytes are told by any kind of error
        raise ValueError(f"{path} is damaged or no file of torch.save: {_first_sentence(error)}") from error
    if not isinstance(holder, dict):
        raise ValueError(f"{path} holds a {type(holder).__name__}, not a mapping with tensors")
    return holder


def _explain(path: Path, refusal: str) -> str:
    """Say why a pickle was not read: what stands in it, without making it."""
    types = set(re.findall(r"GLOBAL ([\w.]+)", refusal))
    with contextlib.suppress(Exception):  # files of before torch 1.6, or damaged ones
        types |= set(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    with contextlib.suppress(Exception), open(path, "rb") as file:  # files of pickle alone
        types |= _named_in_pickle(file)
    types -= set(_HARMLESS)
    if not types:
        return f"{path} is damaged or no file of torch.save: it cannot be read as tensors and plain values"
    keep = f"torch.save(torch.load({str(path)!r}, map_location='cpu', weights_only=False)['model'], 'weights.pth')"
    return (
        f"{path} holds {', '.join(sorted(types))}, not only tensors and plain values: reading that may run code, so it "
        f'was not read. If you trust who made it, keep its weights alone: python -c "import torch; {keep}"'
    )


def _named_in_pickle(file: BinaryIO) -> set[str]:
    """Return the types and functions that a pickle names."""
    names, texts = set(), []
    for opcode, argument, _ in pickletools.genops(file):
        if opcode.name == "GLOBAL":
            names.add(str(argument).replace(" ", "."))
        elif opcode.name == "STACK_GLOBAL":
            names.add(".".join(texts[-2:]))
        elif isinstance(argument, str):
            texts.append(argument)
    return names


def _tensors(weights: dict) -> dict[str, Tensor]:
    """Return what of a mapping is tensors, without the prefix of what DistributedDataParallel wrapped."""
    return {str(name).removeprefix("module."): tensor for name, tensor in weights.items() if isinstance(tensor, Tensor)}


def _first_sentence(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].partition(". ")[0]
