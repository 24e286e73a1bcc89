"""COCO files and their images, wherever people have them."""

import pytest
from helpers.animals import assert_same_rows, coco, write_images, write_json

from dino_detr.data import load_detection_dataset


@pytest.mark.parametrize(
    ("annotations", "images"),
    [
        ("annotations/instances_train2017.json", "train2017"),
        ("annotations/instances_train2017.json", "images/train2017"),
        ("annotations/instances_train2017.json", "images"),
        ("annotations/train2017.json", "train2017"),
        ("train2017.json", "."),
        ("train2017.json", "images"),
        ("train2017/_annotations.coco.json", "train2017"),
    ],
)
def test_coco_files_where_people_have_them(tmp_path, annotations, images):
    file = write_json(tmp_path / annotations, coco())
    write_images(tmp_path / images)
    write_json(tmp_path / "annotations" / "captions_train2017.json", coco())
    assert_same_rows(load_detection_dataset(str(tmp_path), "train2017"))
    assert_same_rows(load_detection_dataset(str(tmp_path), "train"))
    assert_same_rows(load_detection_dataset(str(file), "train2017"))


def test_file_names_with_folders_in_them(tmp_path):
    content = coco()
    for image in content["images"]:
        image["file_name"] = f"photos/{image['file_name']}"
    file = write_json(tmp_path / "labels.json", content)
    write_images(tmp_path / "photos")
    assert_same_rows(load_detection_dataset(str(file), "train"))


def test_where_images_were_looked_for(tmp_path):
    file = write_json(tmp_path / "annotations" / "instances_val.json", coco())
    with pytest.raises(FileNotFoundError, match=r"instances_val.json names 'a.jpg', which is in none of") as error:
        load_detection_dataset(str(file), "val")
    for place in ("val", "images/val", "annotations", "images"):
        assert str(tmp_path / place) in str(error.value)
