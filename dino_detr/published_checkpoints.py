"""The published DINO detectors that `dino-detr convert` takes by name: what their authors say of them."""

import csv
import difflib
from pathlib import Path
from typing import NamedTuple

TABLE = Path(__file__).with_suffix(".csv")


class Code(NamedTuple):
    """
    The code that trained a checkpoint.

    Args:
        name, url: of its repository.
        license: as the repository states it; None: it states none.
        place: where its checkpoints lie, for a reader.
        by_hand: whether only a browser can fetch them from there.
    """

    name: str
    url: str
    license: str | None
    place: str
    by_hand: bool = False


CODES = {
    code.name: code
    for code in (
        Code(
            "detrex",
            "https://github.com/IDEA-Research/detrex",
            "Apache-2.0",
            "https://github.com/IDEA-Research/detrex-storage/releases",
        ),
        Code(
            "IDEA-Research/DINO",
            "https://github.com/IDEA-Research/DINO",
            "Apache-2.0",
            "https://drive.google.com/drive/folders/1qD5m1NmK0kjE5hh-G17XUX751WsEG-h_",
            by_hand=True,
        ),
        Code(
            "dgcnz/edge",
            "https://github.com/dgcnz/edge",
            None,
            "https://huggingface.co/dgcnz/dinov2_vitdet_DINO_12ep",
        ),
    )
}


class PublishedCheckpoint(NamedTuple):
    """
    A detector trained on COCO. None of these states a licence of its weights.

    Args:
        name: by which `dino-detr convert` takes it.
        backbone: as a reader knows it.
        epochs: of COCO's train2017.
        box_ap: on COCO's val2017, in percent, as published.
        millions: of parameters.
        code: what trained it.
        place: an address, `hf://owner/repository/file`, or the folder of Google Drive.
    """

    name: str
    backbone: str
    epochs: int
    box_ap: float
    millions: float
    code: Code
    place: str


def read_published() -> dict[str, PublishedCheckpoint]:
    """Return the published checkpoints by name."""
    with open(TABLE, newline="", encoding="utf-8") as file:
        return {
            row["name"]: PublishedCheckpoint(
                row["name"],
                row["backbone"],
                int(row["epochs"]),
                float(row["box_ap"]),
                float(row["millions"]),
                CODES[row["code"]],
                row["place"],
            )
            for row in csv.DictReader(file)
        }


def find_near(name: str) -> list[str]:
    """Return up to three names of published checkpoints that a mistyped or shortened one may stand for."""
    known, words = list(read_published()), set(name.lower().split("-"))
    shortened = [each for each in known if words <= set(each.split("-"))]
    return (shortened or difflib.get_close_matches(name.lower(), known, n=3))[:3]


def format_published() -> str:
    """Return the published checkpoints as a table, by the code that trained them."""
    published = read_published()
    width = max(map(len, published))
    lines = [f"{'name':<{width}}  {'backbone':<17}  epochs  box AP  parameters"]
    for code in CODES.values():
        lines += [
            "",
            f"{code.name}: code {code.license or 'without a stated licence'}, weights without a stated licence",
            f"{'fetched by hand' if code.by_hand else 'downloaded'} from {code.place}",
        ]
        lines += [
            f"{each.name:<{width}}  {each.backbone:<17}  {each.epochs:>6}  {each.box_ap:>6}  {each.millions:>8} M"
            for each in published.values()
            if each.code is code
        ]
    lines += [
        "",
        "box AP: of COCO's val2017, in percent, as published. It was not measured here. All find COCO's 80 classes.",
        "Convert one: dino-detr convert NAME --output DIR",
        "Measure it:  dino-detr evaluate DIR --dataset path/to/coco --split val2017",
    ]
    return "\n".join(lines)
