"""Names of image files, of other systems and tools."""

import pytest
from helpers.coco_files import coco, examples_of, findings_of, picture, write

from dino_detr.data import load_detection_dataset
from dino_detr.data.check import check_split

NAMES = {
    "backslash": ("images\\p{}.png", "images/p{}.png"),
    "mixed separators": ("images\\8/p{}.png", "images/p{}.png"),
    "project folder": ("upload/8/p{}.png", "images/p{}.png"),
    "drive": ("C:\\data\\images\\p{}.png", "images/p{}.png"),
    "server": ("https://somewhere/data/p{}.png", "images/p{}.png"),
    "signed address": ("https://somewhere/data/p{}.png?Expires=1&Signature=a%2Fb", "images/p{}.png"),
    "Label Studio": ("/data/local-files/?d=images/p{}.png", "images/p{}.png"),
    "another machine": ("/home/somebody/images/p{}.png", "images/p{}.png"),
    "percent": ("my%20photo%20{}.png", "images/my photo {}.png"),
    "percent on disk": ("my photo {}.png", "images/my%20photo%20{}.png"),
    "case of the suffix": ("p{}.png", "images/p{}.PNG"),
    "case": ("IMG_{}.PNG", "images/img_{}.png"),
    "accents": ("caf\u00e9{}.png", "images/cafe\u0301{}.png"),
    "separators on disk": ("images/p{}.png", "images\\p{}.png"),
    "FiftyOne": ("p{}.png", "data/p{}.png"),
    "one folder deeper": ("p{}.png", "photos/2024/p{}.png"),
    "several folders": ("p{0}.png", "photos/{0}/p{0}.png"),
    "a folder of another name": ("old/p{}.png", "new/p{}.png"),
}


@pytest.mark.parametrize("kind", NAMES)
def test_names_of_other_systems_and_tools_are_found(tmp_path, kind):
    name, place = NAMES[kind]
    for number in range(3):
        picture(tmp_path / place.format(number), number)
    write(tmp_path, coco([name.format(number) for number in range(3)]), "result.json")
    report = check_split(str(tmp_path), "result")
    assert len(report.rows) == 3 and not report.defects
    as_written = kind in ("FiftyOne", "one folder deeper")
    assert [(finding.kind, finding.count) for finding in report.findings] == (
        [] if as_written else [("respelled_file", 3)]
    )


def test_one_name_among_others_is_found_too(pictures):
    (pictures / "images" / "p1.png").rename(pictures / "images" / "P1.PNG")
    write(pictures, coco())
    assert findings_of(pictures) == {"respelled_file": 1}
    assert examples_of(pictures, "respelled_file")[0].strip() == "images/P1.PNG: file_name 'p1.png'"


def test_two_files_that_fit_are_not_guessed_among(pictures):
    (pictures / "images" / "p1.png").rename(pictures / "images" / "P1.png")
    picture(pictures / "images" / "p1.PNG")
    write(pictures, coco())
    assert findings_of(pictures)["missing_file"] == 1
    (line,) = examples_of(pictures, "missing_file")
    assert "'images/P1.png' and 'images/p1.PNG' are there" in line


def test_a_file_is_not_taken_for_two_names(pictures):
    """Nor for a name when another has it as it is written."""
    (pictures / "images" / "p1.png").unlink()
    (pictures / "images" / "p2.png").unlink()
    write(pictures, coco(["p0.png", "8/p0.png", "x/y.png"]))
    assert findings_of(pictures)["missing_file"] == 2
    (pictures / "images" / "p0.png").rename(pictures / "images" / "y.png")
    picture(pictures / "images" / "p1.png")
    write(pictures, coco(["p1.png", "8/y.png", "9/y.png"]))
    assert findings_of(pictures)["missing_file"] == 2
    assert "other entries mean it too" in examples_of(pictures, "missing_file")[0]


def test_images_of_another_split_are_not_taken(tmp_path):
    for split in ("train", "val"):
        write(tmp_path / "annotations", coco(), f"instances_{split}.json")
    for number in range(3):
        picture(tmp_path / "val" / f"p{number}.png", number)
    with pytest.raises(FileNotFoundError, match=r"instances_train\.json names 'p0\.png', which is in none of"):
        load_detection_dataset(str(tmp_path), "train")
    picture(tmp_path / "train" / "p0.png")
    report = check_split(str(tmp_path), "train")
    assert len(report.rows) == 1 and [finding.kind for finding in report.defects] == ["missing_file"]


def test_what_is_there_instead_is_said(tmp_path):
    picture(tmp_path / "images" / "p0.webp")
    write(tmp_path, coco())
    with pytest.raises(FileNotFoundError, match=r"names 'p0\.png', which is in none of .*; 'images/p0\.webp' is there"):
        load_detection_dataset(str(tmp_path), "train")
    picture(tmp_path / "images" / "p1.png")
    assert "p0.webp" in examples_of(tmp_path, "missing_file")[0]
    for folder in ("a", "b"):
        picture(tmp_path / folder / "q.png")
    write(tmp_path, coco(["q.png"]))
    with pytest.raises(FileNotFoundError, match=r"'a/q\.png' and 'b/q\.png' are there: it is not clear which is meant"):
        load_detection_dataset(str(tmp_path), "train")


def test_images_outside_of_the_data_set_are_not_read_in_passing(pictures, tmp_path_factory):
    """Neither by steps upwards nor by an absolute path; where all are there, they are, and it is said."""
    other = tmp_path_factory.mktemp("other")
    picture(other / "private.png")
    upwards = f"../../{other.name}/private.png"
    for name in (str(other / "private.png"), upwards):
        write(pictures, coco(["p0.png", name]))
        report = check_split(str(pictures), "train")
        assert [(finding.kind, finding.count) for finding in report.defects] == [("outside_file", 1)]
        assert len(report.rows) == 1
    write(pictures, coco([str(other / "private.png")]))
    report = check_split(str(pictures), "train")
    assert not report.defects and report.remarks[0].kind == "all_outside" and len(report.rows) == 1
    write(pictures, coco([str(pictures / "images" / "p0.png"), "../images/p1.png"]))
    assert "outside_file" not in findings_of(pictures)
