"""The folder of a Hugging Face Space that shows the page."""

import json
import shutil
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import yaml

from .. import __version__
from ..evaluation.operating_point import read_threshold
from ..hub.push import checkpoint_files
from ..outputs import claim_folder, fill_folder
from ..runs.names import FIGURES_JSON
from .page import MOST_DETECTORS, import_gradio

_APP = '''"""A page to try the detector."""

from dino_detr.demo import build_page

build_page({checkpoints}).launch()
'''

_CARD = """---
{front_matter}---

# {title}

Drop pictures and see what is found. Made by `dino-detr demo --space` of dino-detr {version}.
"""


def write_space(checkpoints: Sequence[str], folder: str | Path) -> None:
    """
    Write the folder of a Space: `app.py`, `requirements.txt`, a card, and the checkpoints that are folders here.

    Args:
        checkpoints: one or two folders or Hub ids; a folder goes into the Space without what only training needs.
        folder: new, or empty.

    Raises:
        FileExistsError: if the folder holds something.
        FileNotFoundError: if a checkpoint folder has no weights.
        ImportError: if gradio, whose version the Space takes, is not installed.
    """
    import_gradio()
    if not 1 <= len(checkpoints) <= MOST_DETECTORS:
        raise ValueError(f"{len(checkpoints)} checkpoints: one, or two side by side")
    claim_folder(folder, "space")
    with fill_folder(folder) as filled:
        names = [_place(Path(checkpoint), filled) for checkpoint in checkpoints]
        title = f"Detect with {' and '.join(Path(name).name for name in names)}"
        front_matter = {
            "title": title, "sdk": "gradio", "sdk_version": version("gradio"), "app_file": "app.py",
            "models": [name for name, checkpoint in zip(names, checkpoints) if not Path(checkpoint).is_dir()],
        }  # fmt: skip
        card = _CARD.format(
            front_matter=yaml.safe_dump(front_matter, sort_keys=False), title=title, version=__version__
        )
        for name, content in {
            "app.py": _APP.format(checkpoints=json.dumps(names)),
            "requirements.txt": f"dino-detr[demo]=={__version__}\n",
            "README.md": card,
        }.items():
            (filled / name).write_text(content, encoding="utf-8")


def _place(checkpoint: Path, space: Path) -> str:
    """Copy a checkpoint folder into the Space. Returns what `app.py` calls it; of a Hub id, that."""
    if not checkpoint.is_dir():
        return str(checkpoint)
    name, number = checkpoint.resolve().name, 1
    while (space / name).exists():
        number += 1
        name = f"{checkpoint.resolve().name}_{number}"
    (space / name).mkdir()
    for file in checkpoint_files(checkpoint):
        shutil.copy2(file, space / name / file.name)
    threshold = {"threshold": read_threshold(checkpoint)}
    (space / name / FIGURES_JSON).write_text(json.dumps(threshold) + "\n", encoding="utf-8")
    return name
