"""One step gives the same gradient however its images are spread over processes and accumulated batches."""

import json
import shutil
import sys

import pytest
import torch
from helpers.launching import TWO_PROCESSES, run, with_backbone
from PIL import Image
from safetensors.torch import load_file

from dino_detr.training import parse_options
from dino_detr.training.run import prepare


@pytest.fixture(scope="module")
def one_size(data, tmp_path_factory):
    """Four images of one size, with 2 to 8 boxes."""
    folder = tmp_path_factory.mktemp("one_size")
    (folder / "annotations").mkdir()
    for split in ("train", "val"):
        content = json.loads((data / "annotations" / f"instances_{split}.json").read_text())
        content["images"] = content["images"][:4]
        scale = {}
        for image in content["images"]:
            (folder / split).mkdir(exist_ok=True)
            picture = Image.open(data / split / image["file_name"]).resize((96, 64))
            picture.save(folder / split / image["file_name"])
            scale[image["id"]] = 96 / image["width"], 64 / image["height"]
            image |= {"width": 96, "height": 64}
        content["annotations"] = [item for item in content["annotations"] if item["image_id"] in scale]
        for item in content["annotations"]:
            sx, sy = scale[item["image_id"]]
            x, y, w, h = item["bbox"]
            item["bbox"] = [x * sx, y * sy, w * sx, h * sy]
        (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize(
    ("backbone", "empty"),
    [
        ("dinov2", False),
        ("dinov2", True),
        ("resnet", False),
        ("swin", True),
        ("adapters", False),
        pytest.param("sources", True, marks=pytest.mark.slow),
        pytest.param("vitdet", False, marks=pytest.mark.slow),
    ],
    ids=lambda value: value if isinstance(value, str) else "a part without boxes" if value else "all with boxes",
)
def test_gradient_does_not_depend_on_the_layout(recipe, one_size, tmp_path, backbone, empty):
    """Promises 10 and 11: 4, 2x2 processes, 2x2 accumulated; half of the step without a box, backbone unfrozen."""
    more = ["--freeze_backbone", "true", "--lora_rank", "4"] if backbone == "adapters" else []
    if backbone == "sources":
        other = shutil.copytree(one_size, tmp_path / "other")
        more = ["--dataset", one_size, other, "--dataset_weights", "1", "3"]
    if backbone not in ("dinov2", "adapters", "sources"):
        still = {} if backbone == "resnet" else {"drop_path_rate": 0.0}  # drawn for each image of a batch
        recipe = with_backbone(recipe, tmp_path, backbone, **still)
    options = [recipe, "--dataset", one_size, "--image_sizes", "64", "--augmentation", "none", "--max_grad_norm", "0"]
    options += ["--save_strategy", "no", "--eval_strategy", "no", "--load_best_model_at_end", "false", *more]
    order = list(
        prepare(
            parse_options([str(part) for part in [*options, "--output_dir", tmp_path / "order"]])
        )._get_train_sampler()
    )
    indices = ",".join(str(index) for index in order[:2]) if empty else "none"

    def gradient(name: str, launcher: list[str], *more: str) -> dict[str, torch.Tensor]:
        path = tmp_path / f"{name}.safetensors"
        script = ["tests/helpers/step_gradient.py", path, indices, *options, "--output_dir", tmp_path / name, *more]
        run(sys.executable, *launcher, *script)
        return load_file(path)

    whole = gradient("whole", [])
    parts = {
        "accumulated": gradient("accumulated", [], "--gradient_accumulation_steps", "2"),
        "processes": gradient("processes", TWO_PROCESSES),
    }
    norm = torch.stack([g.norm() for g in whole.values()]).norm()
    assert norm > 0
    for layout, gradients in parts.items():
        assert set(gradients) == set(whole)
        for name, expected in whole.items():
            difference = (gradients[name] - expected).norm() / max(expected.norm(), 1e-3 * norm)
            assert difference < 1e-5, f"{layout}, {name}: {difference}"
