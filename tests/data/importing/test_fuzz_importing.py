"""Mutated YOLO and VOC folders: never a traceback, and files in = files out + problems named.

A failure names its seed: `mutate(folder, random.Random(seed))` makes the same folder again.
"""

import json
import random
import shutil
from pathlib import Path

import pytest
from helpers.export_layouts import cvat, cvat_ultralytics, kaggle, label_studio, labelimg, nested, only_trainval, quoted
from PIL import Image

from dino_detr.data.importing import import_data
from dino_detr.data.importing.source_files import read_text

CASES = 30  # of each layout
LAYOUTS = {
    "yolo": [label_studio, labelimg, cvat, cvat_ultralytics, "with splits"],
    "voc": [kaggle, nested, quoted, only_trainval],
}
WORDS = [b"\0", b"\xff", b"\xfe\xff", b"nan", b"-1", b"1e400", b"9" * 400, b"/", b"..", b"\\", b"<", b"&a;", b"]]>"]
WORDS += [b"\n", b"\r", b"[", b"{", b": ", b"'", b"&a [*a]", b"!!python/object:os.system", b"<!ENTITY", b"%00"]
WORDS += [b"\xef\xbb\xbf"]


def with_splits(root: Path) -> None:
    for split in ("train", "val"):
        for name in ("a", "b"):
            for folder in ("images", "labels"):
                (root / split / folder).mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8)).save(root / split / "images" / f"{split} {name}.png")
            (root / split / "labels" / f"{split} {name}.txt").write_text(
                "0 0.5 0.5 0.2 0.2\n1 0.1 0.1 0.3 0.1 0.2 0.4\n"
            )
    (root / "data.yaml").write_text("train: ../train/images\nval: ../val/images\nnames: ['cat', 'dog']\nnc: 2\n")


def mutate(root: Path, draw: random.Random) -> None:
    """A few changes of the kinds that disks, archives and hands make."""
    for _ in range(draw.choice([1, 1, 2, 4])):
        files = sorted(path for path in root.rglob("*") if path.is_file())
        if not files:
            return
        path, how = draw.choice(files), draw.random()
        content = path.read_bytes()
        place = draw.randrange(len(content) + 1)
        if how < 0.45:
            word = draw.choice([*WORDS, draw.randbytes(3)])
            path.unlink()  # it may be a link to another case's
            path.write_bytes(content[:place] + word + content[place + draw.choice([0, 1, len(word)]) :])
        elif how < 0.55:
            path.unlink()
            path.write_bytes(content[:place])
        elif how < 0.65:
            path.unlink()
        elif how < 0.75:
            suffix = draw.choice([path.suffix.swapcase(), ".heic", ".TXT", ".Xml", ".jpeg", ".gif", ".yaml", ""])
            path.rename(path.with_suffix(suffix))
        elif how < 0.85:
            folder = draw.choice([root, path.parent / "more", root / "images", root / "valid", root / ".hidden"])
            folder.mkdir(exist_ok=True)
            path.rename(folder / path.name)
        elif how < 0.9:
            shutil.copy(path, path.with_name(draw.choice(["copy of ", "train", "classes", "obj"]) + path.name))
        elif how < 0.95:
            copy = draw.choice([root, path.parent]) / draw.choice(["classes.txt", "data.yaml", "a.xml", "x"])
            if copy != path:
                shutil.copy(path, copy)
        else:
            path.with_suffix(".d").mkdir(exist_ok=True)
            path.rename(path.with_suffix(".d") / path.name)


def assert_all_accounted_for(form: str, source: Path, output: Path, data) -> None:
    problems = "\n".join(data.problems)
    written = {path.stat().st_ino for split in data.splits for path in (output / split).iterdir()}
    entries = [json.loads(path.read_text()) for path in output.glob("annotations/*.json")]
    assert sum(len(content["images"]) for content in entries) == sum(map(len, data.splits.values()))
    not_used, _ = data.files.name_rest([], {"": "?"})
    not_used = {line.removesuffix(": ?") for line in not_used}
    files = [path for path in source.rglob("*") if path.is_file()]
    for path in files:
        if path.name != "notes.json" and path.stat().st_ino not in written:
            assert str(path) in problems or str(path) not in not_used
    for image in (image for images in data.splits.values() for image in images):
        texts = [path for path in files if (path.stem, path.suffix.lower()) == (image.path.stem, ".txt")]
        used = [path for path in texts if str(path) not in not_used]
        if form == "yolo" and len(used) == 1:
            lines = [line for line in read_text(used[0]).splitlines() if line.strip()]
            refused = [line for line in data.problems if line.startswith(f"{used[0]}:")]
            assert len(image.objects) + len(refused) == len(lines), used[0]


@pytest.mark.filterwarnings("ignore")  # Pillow's, of damaged files
@pytest.mark.parametrize(
    "form,layout",
    [(form, layout) for form, layouts in LAYOUTS.items() for layout in layouts],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_mutated_folders(form, layout, tmp_path):
    original = tmp_path / "original"
    (with_splits if layout == "with splits" else layout)(original)
    imported = 0
    for number in range(CASES):
        seed = f"{form} {getattr(layout, '__name__', layout)} {number}"
        print(seed)
        draw = random.Random(seed)
        source, output = tmp_path / f"{number}", tmp_path / f"{number} coco"
        shutil.copytree(original, source)
        mutate(source, draw)
        try:
            data = import_data(form, source, output, draw.choice([None, 0.3]))
        except (ValueError, OSError) as error:
            assert type(error) in (ValueError, FileNotFoundError), seed
            assert "\n" not in str(error) and str(source) in str(error), seed
            assert not output.exists(), seed
            continue
        imported += 1
        assert_all_accounted_for(form, source, output, data)
        shutil.rmtree(source)
        shutil.rmtree(output)
    assert imported > CASES / 4
