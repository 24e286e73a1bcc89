"""The COCO folder that an import writes."""

import pytest
from helpers.export_layouts import (
    LABELS,
    picture,
    write,
    xml,
)
from helpers.other_formats import contents, import_data, names_of, write_description, write_yolo


@pytest.mark.parametrize("form", ["yolo", "voc"])
def test_a_share_of_what_has_no_train(form, load, tmp_path):
    root = tmp_path / "data"
    for split in ("test", "train"):
        picture(root / split / f"{split}.jpg")
        write(root / split / f"{split}.txt", LABELS) if form == "yolo" else xml(root / split / f"{split}.xml", "x")
    if form == "yolo":
        write(root / "classes.txt", "cat\ndog\n")
    with pytest.raises(SystemExit, match=r"no two images that --val_share .*\(train: 1, test: 1\)"):
        load(form, root, "--val_share", "0.5")
    (root / "train" / "train.jpg").unlink()
    with pytest.raises(SystemExit, match=r"no two images that --val_share"):
        load(form, root, "--val_share", "0.5")


def test_images_of_one_name_are_kept_apart(original, tmp_path):
    source = write_yolo(original, tmp_path / "yolo")
    write_description(source, train=["images/train", "images/val"], names=names_of(original))
    content, boxes = contents(import_data("yolo", source, tmp_path / "coco"), "train")
    assert len(content["images"]) == len(boxes) == 10
    expected = contents(original, "val")[1]["000.png"]
    assert [label for label, _ in boxes["000_2.png"]] == [label for label, _ in expected]
    assert (tmp_path / "coco" / "train" / "000_2.png").read_bytes() == (original / "val" / "000.png").read_bytes()


def test_nothing_is_written_over(original, tmp_path):
    source = write_yolo(original, tmp_path / "yolo")
    write_description(source, train="images/train", names=names_of(original))
    (tmp_path / "coco").mkdir()
    (tmp_path / "coco" / "mine.txt").write_text("mine")
    with pytest.raises(SystemExit, match="coco is not an empty folder; choose another --output"):
        import_data("yolo", source, tmp_path / "coco")
    assert [path.name for path in (tmp_path / "coco").iterdir()] == ["mine.txt"]
    with pytest.raises(SystemExit, match=r"there is no .*nowhere"):
        import_data("yolo", tmp_path / "nowhere", tmp_path / "new")
    with pytest.raises(SystemExit, match="no XML files"):
        import_data("voc", source, tmp_path / "new")
