"""Boxes that are no x, y, width, height in pixels."""

import pytest
from helpers.coco_files import BOXES, coco, findings_of, picture, write

from dino_detr.cli import main
from dino_detr.data import load_detection_dataset


def normalised(box):
    return [box[0] / 96, box[1] / 64, box[2] / 96, box[3] / 64]


def test_normalised_boxes_end_training_and_are_listed_by_the_check(pictures, recipe, tmp_path, capsys):
    content = coco()
    for entry in content["annotations"]:
        entry["bbox"] = normalised(entry["bbox"])
    write(pictures, content)
    write(pictures, content, "val.json")
    main(["check-data", str(pictures)])
    output = capsys.readouterr().out
    assert "1  annotation files whose boxes are normalised: refused (COCO's are in pixels)" in output
    assert "5 defects" in output and "training will refuse 2 files" in output
    message = r"train\.json.*normalised.*pixels: no value of 6 boxes is above 1"
    with pytest.raises(SystemExit, match=message):
        main(["train", str(recipe), "--dataset", str(pictures), "--output_dir", str(tmp_path / "run")])
    with pytest.raises(ValueError, match=message):
        load_detection_dataset(str(pictures), "train")
    with pytest.raises(SystemExit):
        main(["check-data", str(pictures), "--strict"])


def test_normalised_results_are_no_bad_detector(pictures):
    results = [
        {"image_id": e["image_id"], "category_id": 1, "score": 0.5, "bbox": normalised(BOXES[0])}
        for e in coco()["annotations"]
    ]
    write(pictures, results, "results.json")
    file = write(pictures, coco())
    with pytest.raises(SystemExit, match=r"results\.json against .*train\.json: .*the results are normalised"):
        main(["evaluate", str(pictures / "results.json"), "--dataset", str(file)])


@pytest.mark.parametrize(
    ("convert", "kind"),
    [
        (lambda x, y, w, h: [x, y, x + w, y + h], "corner_boxes"),
        (lambda x, y, w, h: [x + w / 2, y + h / 2, w, h], "centre_boxes"),
        (lambda x, y, w, h: [x, y, w, h], None),
        (lambda x, y, w, h: [30, 20, 20, 10] if x % 3 else [60, 40, 70, 60], None),  # some are drawn beyond the border
    ],
)
def test_boxes_of_another_form_are_named(tmp_path, convert, kind):
    names = [f"p{number}.png" for number in range(9)]
    for name in names:
        picture(tmp_path / "images" / name)
    content = coco(names)
    for number, entry in enumerate(content["annotations"]):
        entry["bbox"] = convert(30 + number, 20 + number, 40, 25)
    write(tmp_path, content)
    assert {"corner_boxes", "centre_boxes"} & findings_of(tmp_path).keys() == ({kind} if kind else set())


def test_a_few_small_boxes_are_not_taken_for_normalised(pictures):
    content = coco()
    content["annotations"][0]["bbox"] = [0, 0, 1, 1]
    write(pictures, content)
    assert findings_of(pictures) == {}
