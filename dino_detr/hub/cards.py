"""The model card of a run, from the run's own numbers."""

import json
from pathlib import Path

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from ..evaluation.history import read_history

TEMPLATE = """---
{{ card_data }}
---

# {{ name }}

A [DINO](https://arxiv.org/abs/2203.03605) detector on a {{ backbone }} backbone, trained with `dino-detr` on
`{{ dataset }}`. It finds {{ classes | length }} classes: {{ classes | join(", ") }}.

| AP | AP50 | AP75 | small | medium | large |
|---|---|---|---|---|---|
| {% for figure in figures %}{{ figure }} | {% endfor %}

COCO's average precision of these weights on the split `{{ split }}`; a dash: no object of that size.

## Use

```python
from transformers import pipeline

detector = pipeline("object-detection", model="{{ name }}", trust_remote_code=True)
detector("photo.jpg")
```

## Training

{{ steps }} steps of {{ batch_size }} images on {{ processes }} x {{ device }}; torch {{ versions["torch"] }},
transformers {{ versions["transformers"] }}. The whole recipe is in `recipe.yaml`, the curves in `plots/`.

![Average precision](plots/box_ap.png)
"""


def write_card(run_folder: str | Path) -> None:
    """
    Write `README.md` into a finished run folder, from what else is in it.

    The figures are those of `figures.json`, measured of the very weights that the folder holds.
    """
    folder = Path(run_folder)
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    environment = json.loads((folder / "environment.json").read_text())
    config = json.loads((folder / "config.json").read_text())
    best = json.loads((folder / "figures.json").read_text())
    history = read_history(folder / "metrics.jsonl") + read_history(folder / "evaluation.jsonl")
    steps = max(line["step"] for line in history)
    name = folder.resolve().name
    split = recipe.get("eval_split") or (
        f"{recipe['train_split']} ({recipe['overfit_images']} images that it was trained on)"
    )
    classes = [config["id2label"][str(index)] for index in range(len(config["id2label"]))]
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag="object-detection",
        tags=["dino-detr", "object-detection"],
        model_name=name,
        eval_results=[
            EvalResult(
                task_type="object-detection",
                dataset_type=recipe["dataset"],
                dataset_name=recipe["dataset"],
                dataset_split=split,
                metric_type=f"box {figure}",
                metric_value=round(best[figure], 4),
            )
            for figure in ("AP", "AP50", "AP75")
        ],
    )
    card = ModelCard.from_template(
        data,
        template_str=TEMPLATE,
        name=name,
        backbone=recipe.get("backbone") or f"{config['backbone_config']['model_type']} (random initial weights)",
        dataset=recipe["dataset"],
        split=split,
        classes=classes,
        figures=[f"{best[f]:.3f}" if best[f] >= 0 else "-" for f in ("AP", "AP50", "AP75", "APs", "APm", "APl")],
        steps=steps,
        batch_size=recipe["total_batch_size"],
        processes=environment["processes"],
        device=environment["device"],
        versions=environment["versions"],
    )
    card.save(folder / "README.md")
