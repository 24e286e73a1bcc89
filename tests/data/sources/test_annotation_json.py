"""JSON in other encodings."""

import json

import pytest
from helpers.coco_files import coco

from dino_detr.data import load_detection_dataset


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
@pytest.mark.parametrize("ascii_only", [True, False])
def test_other_encodings_of_json(pictures, encoding, ascii_only):
    content = coco()
    content["categories"][0]["name"] = "Käse"
    text = json.dumps(content, ensure_ascii=ascii_only)
    (pictures / "train.json").write_bytes(text.encode(encoding))
    rows = load_detection_dataset(str(pictures), "train")
    assert len(rows) == 3 and rows.features["objects"]["category"].feature.names[0] == "Käse"


def test_a_file_in_another_encoding_is_told_so(pictures):
    content = coco()
    content["categories"][0]["name"] = "Käse"
    (pictures / "train.json").write_bytes(json.dumps(content, ensure_ascii=False).encode("latin-1"))
    with pytest.raises(ValueError, match=r"train\.json is not readable as JSON: .*Save it as UTF-8"):
        load_detection_dataset(str(pictures), "train")
