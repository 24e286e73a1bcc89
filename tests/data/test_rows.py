"""Rows keep their classes, whatever users do to them."""

import shutil

from datasets import load_from_disk
from helpers.animals import IDS, coco, write_json

from dino_detr.data import category_ids, class_names, load_detection_dataset


def test_rows_saved_by_the_user_come_back(tmp_path, images):
    """With the original ids, through either door."""
    write_json(tmp_path / "train.json", coco(ids=IDS))
    shutil.copytree(images, tmp_path / "images")
    rows = load_detection_dataset(str(tmp_path), "train")
    rows.save_to_disk(tmp_path / "again")
    again = load_detection_dataset(str(tmp_path / "again"), "train")
    assert (class_names(again), category_ids(again)) == (["ant", "cow", "bee"], [3, 7, 40])
    assert again["objects"][:] == rows["objects"][:]
    assert again["image_id"][:] == rows["image_id"][:]


def test_classes_survive_what_users_do_to_rows(write_folder, content, tmp_path):
    rows = load_detection_dataset(str(write_folder(content)), "train")
    rows.select([1, 0]).shuffle(seed=0).filter(lambda row: row["image_id"] > 4).save_to_disk(tmp_path / "saved")
    rows = load_from_disk(tmp_path / "saved")
    assert (category_ids(rows), class_names(rows)) == ([3, 7, 90], ["three", "seven", "ninety"])
