"""Files are read for their tensors, whatever lies beside them, and nothing that is in them runs."""

import argparse
import os
import pickle
import random
from collections import OrderedDict

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from dino_detr.hub.conversion.files import read_published_file

WEIGHTS = {"module.layer.weight": torch.arange(6.0).reshape(2, 3), "module.layer.bias": torch.ones(2)}


class WritesAFile:
    """What would write `victim` if it were unpickled."""

    def __reduce__(self):
        return os.system, ("echo written > victim",)


def save(path, content, legacy=False):
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    return path


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "of before torch 1.6"])
def test_tensors_are_read_beside_an_optimiser_numbers_and_arguments(legacy, tmp_path):
    average = {"module.layer.bias": torch.zeros(2)}
    arguments = argparse.Namespace(lr=np.float64(1e-4), dataset_file="coco", steps=[1, 2], resume=None, small={1})
    content = {
        "model": OrderedDict(WEIGHTS), "ema_model": average, "args": arguments, "epoch": 11,
        "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 1e-4, "params": [0]}]},
        "trainer": {"best": np.float32(0.5), "at": np.int64(3), "done": np.bool_(True)},
    }  # fmt: skip
    read = read_published_file(save(tmp_path / "a.pth", content, legacy))
    assert set(read.weights) == {"layer.weight", "layer.bias"} and set(read.averaged) == {"layer.bias"}
    assert torch.equal(read.weights["layer.weight"], WEIGHTS["module.layer.weight"])
    assert torch.equal(read.averaged["layer.bias"], torch.zeros(2)) and read.arguments["dataset_file"] == "coco"


@pytest.mark.parametrize("holder", [{"model": WEIGHTS}, {"state_dict": WEIGHTS}, WEIGHTS], ids=["model", "lit", "bare"])
def test_released_files_may_have_been_stripped(holder, tmp_path):
    read = read_published_file(save(tmp_path / "a.pth", holder))
    assert set(read.weights) == {"layer.weight", "layer.bias"} and not read.averaged and not read.arguments
    save_file(WEIGHTS, tmp_path / "a.safetensors")
    assert set(read_published_file(tmp_path / "a.safetensors").weights) == set(read.weights)


@pytest.mark.parametrize("form", ["zip", "legacy", "pickle", "pickle protocol 0"])
def test_code_in_a_pickle_does_not_run_and_is_named(form, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content, path = {"model": WEIGHTS, "hook": WritesAFile()}, tmp_path / "it's.pth"
    if form.startswith("pickle"):
        plain = {"model": {name: tensor.tolist() for name, tensor in WEIGHTS.items()}, "hook": WritesAFile()}
        path.write_bytes(pickle.dumps(plain, protocol=0 if form.endswith("0") else None))
    else:
        save(path, content, legacy=form == "legacy")
    with pytest.raises(ValueError, match=rf"holds {os.system.__module__}\.system, .* it was not read") as refusal:
        read_published_file(path)
    assert "\n" not in str(refusal.value) and os.listdir(tmp_path) == ["it's.pth"]
    # what the message says to do, by someone who trusts the file, does what it says
    if form == "zip":
        command = str(refusal.value).partition("python -c ")[2].strip('"').partition("import torch; ")[2]
        exec(command, {"torch": torch})
        assert set(read_published_file("weights.pth").weights) == {"layer.weight", "layer.bias"}


def test_a_whole_module_is_refused_by_its_type(tmp_path):
    with pytest.raises(ValueError, match=r"holds torch\.nn\.modules\.linear\.Linear, not only tensors"):
        read_published_file(save(tmp_path / "a.pth", torch.nn.Linear(2, 2)))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"<html>Not Found</html>", "damaged or no file of torch.save"),
        (b"PK\x03\x04 and then nothing", "damaged or no file of torch.save"),
        ([1, 2], "holds a list, not a mapping"),
        ({"ema": {"module": WEIGHTS}, "date": 1}, "no tensors by name; it has ema, date"),
        ({}, "no tensors by name; it has nothing"),
    ],
    ids=["empty", "a page", "half a header", "a list", "deeper", "nothing"],
)
def test_what_is_no_checkpoint_is_told_in_a_line(content, said, tmp_path):
    path = tmp_path / "a.pth"
    path.write_bytes(content) if isinstance(content, bytes) else save(path, content)
    with pytest.raises(ValueError, match=said) as refusal:
        read_published_file(path)
    assert str(path) in str(refusal.value) and "\n" not in str(refusal.value)
    with pytest.raises(FileNotFoundError, match="there is no file"):
        read_published_file(tmp_path)


@pytest.mark.parametrize("suffix", ["zip.pth", "legacy.pth", "safetensors"])
def test_damage_of_any_kind_is_an_error_that_names_the_file(suffix, tmp_path):
    """Bytes cut off, or changed: the file reads or is refused, and no other error comes out."""
    whole, path = tmp_path / f"whole.{suffix}", tmp_path / f"damaged.{suffix}"
    content = {"model": {f"layer{i}": torch.randn(9) for i in range(3)}, "args": argparse.Namespace(a=np.float64(1))}
    if suffix == "safetensors":
        save_file(content["model"], whole)
    else:
        save(whole, content, legacy=suffix == "legacy.pth")
    raw, draw, refused = whole.read_bytes(), random.Random(0), 0
    for case in range(200):
        damaged = bytearray(raw[: draw.randrange(1, len(raw))] if case % 2 else raw)
        if not case % 2:
            for _ in range(3):
                damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        path.write_bytes(damaged)
        try:
            read_published_file(path)
        except ValueError as refusal:
            assert str(path) in str(refusal)
            refused += 1
    assert refused >= 90  # every one that was cut off, if not in what nothing reads
