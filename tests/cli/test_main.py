"""The command answers at once what needs no model, and knows the model when a verb runs."""

import subprocess
import sys

import pytest
from helpers.launching import ENVIRONMENT
from helpers.tiny import tiny_detector
from PIL import Image

import dino_detr
from dino_detr import DinoDetrImageProcessor

# what the installed script does; then, what has been imported, and in how many seconds of CPU time
COMMAND = """
import os, sys
from dino_detr_command import main
try:
    main()
finally:
    heavy = {"torch", "transformers", "numpy", "huggingface_hub"} & set(sys.modules)
    print(*sorted(heavy) or ["nothing"], sum(os.times()[:2]), file=sys.stderr)
"""


def command(*arguments, code=COMMAND):
    arguments = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(arguments, env=ENVIRONMENT, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["--help"], 0, "check-data"),
        (["--version"], 0, f"dino-detr {dino_detr.__version__}"),
        (["trian"], 2, "invalid choice: 'trian'"),
        ([], 2, "required: VERB"),
        (["evaluate", "--help"], 0, "--nms_threshold"),
        (["predict", "folder"], 2, "required: IMAGE, --output"),
    ],
    ids=["help", "version", "mistyped", "nothing", "a verb's help", "a verb mistaken"],
)
def test_what_needs_no_model_is_answered_at_once(arguments, status, said):
    done = command(*arguments)
    assert done.returncode == status and said in done.stdout + done.stderr, done.stderr
    imported, seconds = done.stderr.splitlines()[-1].split()
    assert imported == "nothing"
    assert float(seconds) < 0.5


def test_a_verb_of_the_command_knows_the_model(tmp_path):
    """Also its Auto classes: a checkpoint is loaded by them."""
    tiny_detector().save_pretrained(tmp_path / "checkpoint")
    DinoDetrImageProcessor(size={"shortest_edge": 64, "longest_edge": 96}).save_pretrained(tmp_path / "checkpoint")
    Image.new("RGB", (90, 60)).save(tmp_path / "photo.png")
    done = command("predict", tmp_path / "checkpoint", tmp_path / "photo.png", "--output", tmp_path / "found")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "found" / "photo.jpg").is_file()


def test_the_package_gives_its_classes_before_a_verb_needs_them():
    code = "import dino_detr_command, dino_detr; print(dino_detr.DinoDetrConfig.model_type)"
    done = command(code=code)
    assert done.stdout.startswith("dino_detr_vit"), done.stderr
    done = command(code="import dino_detr_command, dino_detr; dino_detr.DinoDetr")
    assert "AttributeError: module 'dino_detr' has no attribute 'DinoDetr'" in done.stderr


def test_importing_the_package_makes_transformers_know_the_model():
    code = "import dino_detr; from transformers import AutoConfig; print(AutoConfig.for_model('dino_detr_vit').d_model)"
    assert int(command(code=code).stdout) == dino_detr.DinoDetrConfig().d_model
