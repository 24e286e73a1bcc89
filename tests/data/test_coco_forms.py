"""COCO files as annotation tools write them: numbers as text, names of other systems, other encodings, other boxes."""

import json
import math

import pytest
from PIL import Image

from dino_detr.cli import main
from dino_detr.data import category_ids, load_detection_dataset
from dino_detr.data.check import check_split
from dino_detr.data.findings import Findings
from dino_detr.data.numbers import Ids, number_ids, read_box, read_flag, read_number, read_whole
from dino_detr.data.sources.coco import clean_annotations

BOXES = [[10.0, 10.0, 30.0, 20.0], [50.0, 20.0, 24.0, 30.0]]


def picture(path, shade=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (96, 64), (shade * 40 % 256, 90, 60)).save(path, format="PNG")


def coco(names=("p0.png", "p1.png", "p2.png")) -> dict:
    images = [{"id": i + 1, "file_name": name, "width": 96, "height": 64} for i, name in enumerate(names)]
    annotations = [
        {"id": 2 * i + k + 1, "image_id": i + 1, "category_id": k + 1, "bbox": BOXES[k], "area": 500.0, "iscrowd": 0}
        for i in range(len(names))
        for k in (0, 1)
    ]
    return {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
    }


def write(folder, content, name="train.json", encoding="utf-8"):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(json.dumps(content).encode(encoding))
    return folder / name


@pytest.fixture
def pictures(tmp_path):
    for shade in range(3):
        picture(tmp_path / "images" / f"p{shade}.png", shade)
    return tmp_path


def findings_of(folder, split="train") -> dict[str, int]:
    return {finding.kind: finding.count for finding in check_split(str(folder), split).findings}


def examples_of(folder, kind) -> list[str]:
    findings = check_split(str(folder), "train", refuse=False).findings
    return [line for finding in findings if finding.kind == kind for line in finding.format_examples(9, str(folder))]


@pytest.mark.parametrize(
    ("value", "whole", "number", "flag"),
    [
        (3, 3, 3, None),
        (1, 1, 1, 1),
        (0.0, 0, 0, 0),
        (1.5, None, 1.5, None),
        ("1", 1, 1, 1),
        ("000012", 12, 12, None),
        (" 1.0 ", 1, 1, 1),
        ("-2.50", None, -2.5, None),
        ("1_0", None, None, None),
        ("\u0661", None, None, None),  # an Arabic one, which int() would read
        ("", None, None, None),
        ("0x1", None, None, None),
        (True, None, None, 1),
        ("False", None, None, 0),
        (None, None, None, None),
        ([1], None, None, None),
        (2**63, None, 2.0**63, None),
        (str(2**63), None, 2.0**63, None),
        (-(2**63), -(2**63), -(2.0**63), None),
        (1e300, None, 1e300, None),
        ("1e3", 1000, 1000, None),
        (10**400, None, math.inf, None),
    ],
)
def test_what_is_a_number(value, whole, number, flag):
    assert (read_whole(value), read_number(value), read_flag(value)) == (whole, number, flag)


def test_what_is_a_box():
    assert read_box("[1, 2, 3.5, 4]") == read_box(["1", "2.0", 3.5, 4]) == [1, 2, 3.5, 4]
    for none in ("1,2,3,4", "[1, 2, 3]", [1, 2, 3, None], [1, 2, 3, "x"], [True, 1, 2, 3], {"x": 1}, None, "[" * 400):
        assert read_box(none) is None


def test_ids_that_are_text_are_numbers_unless_two_would_be_one():
    ids = Ids(["1", "02", "img_3"])
    assert [ids.read(value) for value in ("1", 1, "02", "2", "img_3", " ", None, 1.5, True)] == [
        1, 1, 2, 2, "img_3", None, None, None, None,
    ]  # fmt: skip
    names = Ids(["1", "01"])
    assert [names.read(value) for value in ("1", "01", 1)] == ["1", "01", 1]
    assert number_ids(["b", 7, "a"]) == {7: 7, "a": 8, "b": 9}


TEXT = {
    "category_id": lambda c: [a.update(category_id=str(a["category_id"])) for a in c["annotations"]],
    "categories": lambda c: [k.update(id=f"{k['id']}.0") for k in c["categories"]],
    "image ids": lambda c: [i.update(id=f"{i['id']:06d}") for i in c["images"]],
    "image_id": lambda c: [a.update(image_id=f"{a['image_id']:06d}") for a in c["annotations"]],
    "annotation ids": lambda c: [a.update(id=str(a["id"])) for a in c["annotations"]],
    "bbox": lambda c: [a.update(bbox=[str(v) for v in a["bbox"]]) for a in c["annotations"]],
    "bbox as JSON": lambda c: [a.update(bbox=json.dumps(a["bbox"])) for a in c["annotations"]],
    "area": lambda c: [a.update(area=str(a["area"])) for a in c["annotations"]],
    "iscrowd": lambda c: [a.update(iscrowd=str(a["iscrowd"])) for a in c["annotations"]],
    "sizes": lambda c: [i.update(width=str(i["width"]), height=str(i["height"])) for i in c["images"]],
}


@pytest.mark.parametrize("what", TEXT)
def test_numbers_written_as_text_are_read_and_said(pictures, what):
    file = write(pictures, coco())
    expected = load_detection_dataset(str(file), "train")
    expected_clean = clean_annotations(coco())
    content = coco()
    TEXT[what](content)
    write(pictures, content)
    rows = load_detection_dataset(str(file), "train")
    assert rows.features == expected.features
    assert rows.remove_columns("image").to_list() == expected.remove_columns("image").to_list()
    assert clean_annotations(content) == expected_clean
    report = check_split(str(pictures), "train")
    assert [finding.kind for finding in report.findings] == ["text_number"]
    assert not report.defects and "'" in report.format()


def test_a_crowd_of_text_is_no_crowd_by_being_there(pictures):
    """Never true for its quotes: "0" and "false" are 0; what is neither is named and taken as 0."""
    content = coco()
    given = ["0", "1", "false", True, "yes", 2]
    for entry, value in zip(content["annotations"], given):
        entry["iscrowd"] = value
    rows = load_detection_dataset(str(write(pictures, content)), "train")
    assert [value for objects in rows["objects"] for value in objects["iscrowd"]] == [0, 1, 0, 1, 0, 0]
    assert [line.split(": ")[-1] for line in examples_of(pictures, "unusable_iscrowd")] == [
        "iscrowd 'yes'",
        "iscrowd 2",
    ]


@pytest.mark.parametrize("value", [2**63, 10**400, 1e300, math.nan, 1.5, "1e300", [], None, True, "img_1"])
def test_values_that_are_no_ids_are_named_with_file_entry_and_field(pictures, value):
    """In the image, the category and the annotation; the rest of the file is read."""
    file = write(pictures, coco())
    for place, field, kinds in (
        ("images", "id", {"unusable_image", "text_id"}),
        ("categories", "id", {"unusable_category", "text_id"}),
        ("annotations", "image_id", {"unknown_image_id"}),
        ("annotations", "category_id", {"unknown_category_id"}),
        ("annotations", "id", {"unusable_annotation_id", "missing_annotation_id"}),
    ):
        content = coco()
        content[place][1][field] = value
        write(pictures, content)
        findings = Findings()
        rows = load_detection_dataset(str(file), "train", findings)
        found = {finding.kind: finding.examples[0] for finding in findings.sorted()}
        assert kinds & found.keys(), (place, field)
        example = found[(kinds & found.keys()).pop()]
        assert example.file == str(file) or example.annotation_id == 2 or "annotation_id" in str(kinds)
        if place != "annotations":
            assert example.value.startswith(f"{place}[1]")
        elif value is not None:
            shown = repr(value) if value != 10**400 else "1000000"
            assert shown in str(example.value)
        assert len(rows) == 3 - ("unusable_image" in found)


def test_image_ids_that_are_names_are_numbered_everywhere_alike(pictures, capsys):
    """Rows carry numbers; results may name images by either."""
    names = {1: "img_c", 2: "img_a", 3: "img_b"}
    content = coco()
    for entry in content["images"]:
        entry["id"] = names[entry["id"]]
    for entry in content["annotations"]:
        entry["image_id"] = names[entry["image_id"]]
    file = write(pictures, content)
    rows = load_detection_dataset(str(file), "train")
    assert list(rows["image_id"]) == [3, 1, 2]
    assert findings_of(pictures) == {"text_id": 3}
    figures = []
    for ids in (names, {1: 3, 2: 1, 3: 2}):
        results = [
            {"image_id": ids[number], "category_id": "1", "bbox": BOXES[0], "score": 0.5 + number / 10}
            for number in names
        ]
        write(pictures, results, "results.json")
        output = pictures / f"{len(figures)}.json"
        main(["evaluate", str(pictures / "results.json"), "--dataset", str(file), "--output", str(output)])
        figures.append(json.loads(output.read_text()))
    assert figures[0] == figures[1]
    assert figures[0]["per_class"]["a"]["AP"] == pytest.approx(1)


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


def test_what_a_list_is_instead_is_said(pictures):
    for value, message in ((None, r"lacks annotations \(annotations is no list\)"), ({}, "annotations is no list")):
        write(pictures, coco() | {"annotations": value})
        with pytest.raises(ValueError, match=rf"train\.json {'lacks annotations ' if value else '.*'}{message}"):
            load_detection_dataset(str(pictures / "train.json"), "train")


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


def test_ids_come_out_as_they_were(pictures):
    content = coco()
    content["categories"] = [{"id": "7", "name": None}, {"id": 30.0, "name": ["x"]}]
    for entry in content["annotations"]:
        entry["category_id"] = [7, "30"][entry["category_id"] - 1]
    rows = load_detection_dataset(str(write(pictures, content)), "train")
    assert category_ids(rows) == [7, 30]
    assert rows.features["objects"]["category"].feature.names == ["7", "['x']"]
