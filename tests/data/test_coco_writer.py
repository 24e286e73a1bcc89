"""COCO annotations that are written say what those that were read did."""

import json

from dino_detr.data import load_detection_dataset
from dino_detr.data.coco_writer import rows_to_coco


def test_what_is_written_is_what_was_read(write_folder, content):
    """Sparse category ids, crowds and areas too; what the file left out is filled in, and annotations are numbered."""
    folder = write_folder(content)
    written = rows_to_coco(load_detection_dataset(str(folder), "train"))
    assert written["images"] == [
        {"id": image["id"], "file_name": str(folder / "train" / image["file_name"])} for image in content["images"]
    ]
    assert written["categories"] == sorted(content["categories"], key=lambda category: category["id"])
    expected = sorted(content["annotations"], key=lambda entry: entry["image_id"] != 10)
    expected[2] |= {"area": 80, "iscrowd": 0}
    assert written["annotations"] == [entry | {"id": number} for number, entry in enumerate(expected, start=1)]
    assert json.loads(json.dumps(written)) == written
