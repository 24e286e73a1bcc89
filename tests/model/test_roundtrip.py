"""A saved detector in new processes: this package installed, or a stranger's machine with neither it nor a network."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers.stranger import STRANGER
from helpers.tiny import random_images, tiny_arguments, tiny_backbone_config, tiny_detector
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoModel

from dino_detr import DinoDetrForObjectDetection, DinoDetrImageProcessor

ROOT = Path(__file__).parent.parent.parent
REVISION = "0123456789abcdef0123456789abcdef01234567"

NO_NETWORK = """
import socket

class NoSocket(socket.socket):
    def __init__(self, *args, **kwargs):
        raise OSError("the network was asked for")

socket.socket = NoSocket
socket.create_connection = socket.getaddrinfo = NoSocket
"""

# argv: what to load (a folder or a Hub id), the inputs, where the results go, keyword arguments of from_pretrained
USE = """
import json
import logging
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForObjectDetection, pipeline

source, inputs, results, arguments = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), json.loads(sys.argv[4])
results.mkdir()
image = Image.open(inputs / "image.png")

# first, before anything else could have prepared the way
detector = pipeline("object-detection", model=source, **arguments)
(results / "pipeline.json").write_text(json.dumps(detector(image, threshold=0.1)))
half = pipeline("object-detection", model=source, dtype=torch.bfloat16, **arguments)
assert half.model.dtype == torch.bfloat16 and half(image, threshold=0.1)

config = AutoConfig.from_pretrained(source, **arguments)
processor = AutoImageProcessor.from_pretrained(source, **arguments)
model, loading = AutoModelForObjectDetection.from_pretrained(source, output_loading_info=True, **arguments)
base, base_loading = AutoModel.from_pretrained(source, output_loading_info=True, **arguments)
for found in (loading, base_loading):
    assert not any(found[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), found
assert type(config) is type(model.config) and not model.training
pixel_values = load_file(inputs / "pixel_values.safetensors")["pixel_values"]
with torch.no_grad():
    outputs = model(pixel_values)
    hidden = base(pixel_values).last_hidden_state
    processed = processor(image, return_tensors="pt")
    (detections,) = processor.post_process_object_detection(model(**processed), 0.1, [(image.height, image.width)])
tensors = {"logits": outputs.logits, "pred_boxes": outputs.pred_boxes, "hidden": hidden} | dict(detections)
save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, results / "outputs.safetensors")
names = [type(each).__name__ for each in (config, processor, model, base)]
modules = [type(each).__module__ for each in (config, processor, model, base)]
(results / "names.json").write_text(json.dumps({"names": names, "modules": modules}))
"""

# what a stranger trains and saves is again a checkpoint that carries its code
RESAVE = """
model.save_pretrained(results / "again")
processor.save_pretrained(results / "again")
"""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    save_file({"pixel_values": random_images(2, 3, 70, 90)}, folder / "pixel_values.safetensors")
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (60, 90, 3), generator=generator, dtype=torch.uint8)
    Image.fromarray(pixels.numpy()).save(folder / "image.png")
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, inputs):
    """(the folder, what the detector gives in this process)."""
    model = tiny_detector("dinov2", category_ids=[3, 17, 44])
    with torch.no_grad():
        for head in model.model.class_embed:
            head.bias.zero_()  # so that something is detected
    processor = DinoDetrImageProcessor(size={"shortest_edge": 64, "longest_edge": 128})
    folder = tmp_path_factory.mktemp("checkpoint")
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    image = Image.open(inputs / "image.png")
    with torch.no_grad():
        outputs = model(load_file(inputs / "pixel_values.safetensors")["pixel_values"])
        mine = model(**processor(image, return_tensors="pt"))
    (detections,) = processor.post_process_object_detection(mine, 0.1, [(image.height, image.width)])
    assert len(detections["scores"]) > 5
    return folder, {
        "logits": outputs.logits,
        "pred_boxes": outputs.pred_boxes,
        "hidden": outputs.last_hidden_state,
    } | detections


def run(tmp_path, script, source, inputs, arguments, **environment):
    """A new process in an empty folder, with a Hub cache of its own and nobody at the keyboard. Returns its results."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if name != "PYTHONPATH" and not name.startswith(("HF_", "HUGGINGFACE_", "TRANSFORMERS_"))
    }
    defaults = {
        "HF_HOME": str(tmp_path / "hf"),
        "HF_MODULES_CACHE": str(tmp_path / "modules"),
        "OMP_NUM_THREADS": str(torch.get_num_threads()),  # sums are taken in the same order
    }
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "script.py").write_text("import sys\n" + script)
    results = tmp_path / "results"
    done = subprocess.run(
        [sys.executable, tmp_path / "script.py", str(source), inputs, results, json.dumps(arguments)],
        cwd=tmp_path / "elsewhere",
        env=inherited | defaults | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    for unwanted in ("Do you wish to run", "trust_remote_code", "is not supported", "the network was asked for"):
        assert unwanted not in said, said
    return results


def check(results, expected):
    """Bit for bit, and the pipeline's detections are the processor's."""
    outputs = load_file(results / "outputs.safetensors")
    assert set(outputs) == set(expected)
    for name, tensor in expected.items():
        assert torch.equal(outputs[name], tensor), (name, (outputs[name] - tensor).abs().max())
    detections = json.loads((results / "pipeline.json").read_text())
    assert [found["score"] for found in detections] == expected["scores"].tolist()
    assert [found["label"] for found in detections] == [["cat", "dog", "emu"][k] for k in expected["labels"].tolist()]
    corners = [[found["box"][side] for side in ("xmin", "ymin", "xmax", "ymax")] for found in detections]
    assert corners == expected["boxes"].int().tolist()
    written = json.loads((results / "names.json").read_text())
    assert written["names"] == [
        "DinoDetrConfig",
        "DinoDetrImageProcessor",
        "DinoDetrForObjectDetection",
        "DinoDetrModel",
    ]
    return {module.partition(".")[0] for module in written["modules"]}


def test_where_the_package_is_installed_auto_classes_give_the_same_bits(checkpoint, inputs, tmp_path):
    folder, expected = checkpoint
    script = NO_NETWORK + "import dino_detr\n" + USE
    results = run(tmp_path, script, folder, inputs, {}, PYTHONPATH=str(ROOT))
    assert check(results, expected) == {"dino_detr"}


def test_a_stranger_loads_the_folder_with_its_own_code(checkpoint, inputs, tmp_path):
    """Without this package, timm, triton, scipy or a network; and what the stranger saves loads the same way."""
    folder, expected = checkpoint
    trust = {"trust_remote_code": True}
    (tmp_path / "first").mkdir()
    results = run(tmp_path / "first", STRANGER + NO_NETWORK + USE + RESAVE, folder, inputs, trust)
    assert check(results, expected) == {"transformers_modules"}
    (tmp_path / "second").mkdir()
    shutil.copytree(results / "again", tmp_path / "again")
    results = run(tmp_path / "second", STRANGER + NO_NETWORK + USE, tmp_path / "again", inputs, trust)
    assert check(results, expected) == {"transformers_modules"}


def test_a_stranger_loads_by_hub_id_from_an_offline_cache(checkpoint, inputs, tmp_path):
    folder, expected = checkpoint
    repository = tmp_path / "hf" / "hub" / "models--someone--detector"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(REVISION)
    shutil.copytree(folder, repository / "snapshots" / REVISION)
    script = STRANGER + NO_NETWORK + USE
    results = run(tmp_path, script, "someone/detector", inputs, {"trust_remote_code": True}, HF_HUB_OFFLINE="1")
    assert check(results, expected) == {"transformers_modules"}


def test_a_checkpoint_is_readable_files_and_its_code(checkpoint):
    """Nothing to unpickle; every Auto class finds its class; every module that the code imports lies beside it."""
    folder, _ = checkpoint
    files = {path.name for path in folder.iterdir()}
    assert {"config.json", "model.safetensors", "preprocessor_config.json"} <= files
    assert {Path(name).suffix for name in files} == {".json", ".safetensors", ".py"}
    config = json.loads((folder / "config.json").read_text())
    assert config["category_ids"] == [3, 17, 44] and config["id2label"] == {"0": "cat", "1": "dog", "2": "emu"}
    auto_map = config["auto_map"] | json.loads((folder / "preprocessor_config.json").read_text())["auto_map"]
    assert set(auto_map) == {"AutoConfig", "AutoModel", "AutoModelForObjectDetection", "AutoImageProcessor"}
    for reference in auto_map.values():
        module, _, name = reference.partition(".")
        assert f"class {name}" in (folder / f"{module}.py").read_text()
    for name in files:
        if name.endswith(".py"):
            assert (folder / name).read_text() == (ROOT / "dino_detr" / name).read_text()


def strings_of(value):
    if isinstance(value, dict):
        value = [*value, *value.values()]
    if isinstance(value, list):
        for item in value:
            yield from strings_of(item)
    elif isinstance(value, str):
        yield value


def test_a_checkpoint_does_not_tell_where_it_was_made(tmp_path):
    """Neither where its backbone lay nor where it was loaded from itself."""
    AutoModel.from_config(tiny_backbone_config()).save_pretrained(tmp_path / "backbone")
    model = DinoDetrForObjectDetection.from_backbone(str(tmp_path / "backbone"), **tiny_arguments())
    model.save_pretrained(tmp_path / "first")
    DinoDetrForObjectDetection.from_pretrained(tmp_path / "first").save_pretrained(tmp_path / "second")
    for folder in ("first", "second"):
        config = json.loads((tmp_path / folder / "config.json").read_text())
        assert not [text for text in strings_of(config) if os.path.isabs(text) or str(tmp_path) in text]
