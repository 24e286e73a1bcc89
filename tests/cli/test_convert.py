"""`convert` takes what the projects publish, says what it is, and writes a whole folder or nothing."""

import argparse
import gzip
import os
import re
import subprocess
import sys

import pytest
import torch
from helpers.launching import ENVIRONMENT
from helpers.published import authors_state, detrex_state
from helpers.tiny import tiny_detector
from PIL import Image

from dino_detr import DinoDetrForObjectDetection
from dino_detr.cli import main
from dino_detr.published_checkpoints import read_published


class WritesAFile:
    def __reduce__(self):
        return os.system, ("echo written > victim",)


def names(*names, columns=4):
    return {name: torch.zeros(columns, 4) for name in names}


def with_arguments(state, **arguments):
    return {"model": state, "args": argparse.Namespace(**arguments)}


COCO_IDS = [i for i in range(91) if i not in (0, 12, 26, 29, 30, 45, 66, 68, 69, 71, 83)]
REFUSED = {  # what the file holds, what is said of it
    "Deformable DETR": (
        names(
            "transformer.level_embed", "transformer.encoder.layers.0.self_attn.sampling_offsets.weight",
            "class_embed.0.weight", "query_embed.weight", "input_proj.0.0.weight",
        ),
        "its tensors are a Deformable DETR's",
    ),
    "RT-DETR": (
        names("backbone.conv1.conv1_1.conv.weight", "encoder.input_proj.0.0.weight", "decoder.dec_score_head.0.bias"),
        "its tensors are an RT-DETR's",
    ),
    "RT-DETR of transformers": (
        names("model.backbone.x.weight", "model.decoder.layers.0.encoder_attn.sampling_offsets.weight"),
        "a detector of transformers",
    ),
    "a classifier": (names("conv1.weight", "bn1.weight", "layer1.0.conv1.weight", "fc.weight"), "a classifier's"),
    "DINO, the self-supervised": (
        names("cls_token", "pos_embed", "patch_embed.proj.weight", "blocks.0.attn.qkv.weight"), "a backbone's alone"
    ),
    "something else": (names("layer.weight"), "its tensors are named layer.weight"),
    "our own": (lambda: tiny_detector().state_dict(), "this project's own: nothing is to convert"),
    "code": (lambda: {"model": detrex_state(), "hook": WritesAFile()}, rf"holds {os.system.__module__}\.system"),
    "detrex with 91": (lambda: detrex_state(columns=91), "head has 91 columns, .*of detrex"),
    "another data set": (
        lambda: with_arguments(authors_state(), dataset_file="o365"), "91 columns.*trained on 'o365'"
    ),
    "another embedding of labels": (
        lambda: authors_state() | {"label_enc.weight": torch.zeros(101, 64)}, "91 columns.*another label_enc"
    ),
    "a tensor too few": (
        lambda: {name: value for name, value in detrex_state().items() if name != "transformer.level_embeds"},
        r"level_embed",
    ),
    "a tensor too many": (lambda: detrex_state() | {"neck.gate.weight": torch.ones(1)}, "no place for 1 .*neck.gate"),
    "a decoder cut short": (
        lambda: {name: value for name, value in detrex_state().items() if "decoder.layers.1.norms.2" not in name},
        "does not fit its configuration: missing_keys",
    ),
    "an unknown backbone": (
        lambda: {name.replace("backbone.", "backbone.focal."): value for name, value in detrex_state().items()},
        "its backbone .* is none that is known here",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_converted_is_told_in_a_line_and_nothing_is_written(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content, said = REFUSED[case]
    torch.save(content() if callable(content) else content, "theirs.pth")
    with pytest.raises(SystemExit, match=f"theirs.pth.*{said}") as ending:
        main(["convert", "theirs.pth", "--output", "folder"])
    assert "\n" not in str(ending.value)
    assert os.listdir(tmp_path) == ["theirs.pth"]


def random_file(path, list_of_names):
    """Write what a full-size published file holds: tensors of random values, some under several names; an optimiser."""
    text = list_of_names.read_bytes()
    text = (gzip.decompress(text) if list_of_names.suffix == ".gz" else text).decode()
    torch.manual_seed(0)
    state = {}
    for line in text.splitlines():
        name, shape, *dtype = [*line.split(), "1"][:3] if " " in line else (line, "1")
        sides = [int(side) for side in re.findall(r"\d+", shape)]
        # heads are stored twice, and the authors' for each of the layers
        first = re.sub(r"^transformer\.decoder\.(class|bbox)_embed", r"\1_embed", name)
        if list_of_names.name.startswith("official"):
            first = re.sub(r"^(class|bbox)_embed\.\d+", r"\1_embed.0", first)
        if "relative_position_index" in name or dtype == ["int64"]:
            state[name] = torch.zeros(sides, dtype=torch.int64)
        elif "running_var" in name:
            state[name] = torch.ones(sides)
        else:
            state[name] = state.get(first, 0.02 * torch.randn(sides))
    moments = {i: {"exp_avg": torch.zeros_like(v), "step": 3} for i, v in enumerate(state.values())}
    torch.save({"model": state, "optimizer": {"state": moments}, "args": argparse.Namespace(dataset_file="coco")}, path)


@pytest.mark.slow
@pytest.mark.parametrize(
    "list_of_names",
    ["detrex_dino_r50_4scale.txt", "detrex_dino_swin_tiny_224_4scale.txt.gz", "detrex_dino_vitdet_base_4scale.txt",
     "official_DINO_4scale_r50.txt.gz"],
)  # fmt: skip
def test_published_sizes_through_the_whole_command(list_of_names, zoo, tmp_path):
    """In a process of its own, whose time and memory are printed."""
    random_file(tmp_path / "theirs.pth", zoo / "names" / list_of_names)
    Image.effect_noise((640, 480), 60).convert("RGB").save(tmp_path / "photo.jpg")
    code = "import resource, sys, time; from dino_detr.cli import main; start = time.time(); main(sys.argv[1:]); "
    code += "print(time.time() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)"
    command = ["convert", "theirs.pth", "--output", "folder", "--verify", "photo.jpg"]
    done = subprocess.run(
        [sys.executable, "-c", code, *command], env=ENVIRONMENT, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    *_, recognised, verified, ending, measured = done.stdout.splitlines()
    assert "900 queries, 80 classes of COCO" in recognised and "8 heads with 4 points" in recognised
    assert ending == "theirs.pth -> folder" and "object" in verified
    seconds, gib = map(float, measured.split())
    print(f"{list_of_names}: {seconds:.1f} s, {gib:.2f} GiB at most; {recognised}")
    model = DinoDetrForObjectDetection.from_pretrained(tmp_path / "folder")
    theirs = torch.load(tmp_path / "theirs.pth", mmap=True, weights_only=False)["model"]
    ids = COCO_IDS if list_of_names.startswith("official") else list(range(80))
    assert torch.equal(model.model.class_embed[0].weight, theirs["class_embed.0.weight"][ids])
    assert gib < 4


@pytest.mark.parametrize("there", ["nothing", "an empty folder", "a link to an empty folder"])
def test_the_command_says_what_it_recognised_and_verifies(there, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (90, 60), "red").save("photo.jpg")
    torch.save({"model": detrex_state(), "ema_state": detrex_state(seed=1), "iteration": 9}, "theirs.pth")
    if there != "nothing":
        (tmp_path / ("folder" if there == "an empty folder" else "elsewhere")).mkdir()
        if not os.path.exists("folder"):
            os.symlink("elsewhere", "folder")
    main(["convert", "theirs.pth", "--output", "folder", "--verify", "photo.jpg"])
    recognised, verified, done = capsys.readouterr().out.splitlines()
    assert recognised == (
        "recognised detrex: resnet backbone, 4 levels, 20 queries, 80 classes of COCO, the running average of its "
        "weights; not in the file, taken from its published detectors: 4 heads with 4 points, a position "
        "temperature of 10000, 100 denoising queries"
    )
    assert re.fullmatch(
        r"photo\.jpg: \d+ objects? above 0\.5, the best: [a-z ]+ 0\.\d\d -> folder/verification\.jpg", verified
    )
    assert done == "theirs.pth -> folder"
    assert Image.open("folder/verification.jpg").size == (450, 300)  # small pictures are enlarged
    assert {"config.json", "model.safetensors", "preprocessor_config.json", "README.md", "source.json"} < set(
        os.listdir("folder")
    )
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".")]
    assert os.stat("folder").st_mode & 0o777 == 0o777 & ~os.umask(os.umask(0o022))


def test_nothing_is_left_where_the_verification_fails(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(detrex_state(), "theirs.pth")
    (tmp_path / "photo.jpg").write_bytes(b"no image")
    command = ["convert", "theirs.pth", "--output", "folder", "--verify"]
    with pytest.raises(SystemExit, match=r"--verify photo\.jpg: cannot be read"):
        main([*command, "photo.jpg"])
    with pytest.raises(SystemExit, match=r"no image missing\.jpg"):
        main([*command, "missing.jpg"])
    Image.new("RGB", (90, 60)).save("photo.png")
    monkeypatch.setattr("dino_detr.inference.Detector.__call__", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main([*command, "photo.png"])
    assert sorted(os.listdir(tmp_path)) == ["photo.jpg", "photo.png", "theirs.pth"]


def test_a_reference_config_is_looked_for_before_a_download(tmp_path, monkeypatch):
    monkeypatch.setattr("dino_detr.hub.convert_checkpoint", lambda *_: pytest.fail("the work has begun"))
    with pytest.raises(SystemExit, match=r"no --reference-config missing\.json"):
        main(
            ["convert", "detrex-r50-4scale-12ep", "--output", str(tmp_path / "a"), "--reference-config", "missing.json"]
        )


# what the installed script does; then, what has been imported, and in how many seconds of CPU time
LIST = """
import os, sys
from dino_detr_command import main
sys.argv[1:] = ["convert", "--list"]
try:
    main()
finally:
    print(sorted({"torch", "transformers", "numpy", "huggingface_hub"} & set(sys.modules)), sum(os.times()[:2]))
"""


def test_the_list_is_printed_at_once():
    done = subprocess.run([sys.executable, "-c", LIST], env=ENVIRONMENT, capture_output=True, text=True)
    *table, last = done.stdout.splitlines()
    assert last.startswith("[] ") and float(last.split()[-1]) < 0.5, done.stderr
    rows = {line.split()[0]: line for line in table if line.endswith(" M")}
    assert set(rows) == set(read_published()) and len(rows) == 42 and max(map(len, table)) <= 116
    assert re.search(r"Swin-L +36 +58\.5 +218\.8 M$", rows["detrex-swin-large-384-5scale-36ep"])
    assert "without a stated licence" in done.stdout and "not measured here" in done.stdout
