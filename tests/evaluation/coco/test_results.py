"""Result files as other tools write them, scored by `dino-detr evaluate`."""

import copy
import gzip
import json
from pathlib import Path

import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from dino_detr.cli import main

ANNOTATIONS = {
    "info": {},
    "images": [{"id": 7, "file_name": "a.jpg"}, {"id": 9, "file_name": "b.jpg"}],
    "annotations": [
        {"id": 1, "image_id": 7, "category_id": 3, "bbox": [10, 10, 40, 40], "area": 1600, "iscrowd": 0},
        {"id": 2, "image_id": 9, "category_id": 5, "bbox": [20, 20, 10, 50], "area": 500, "iscrowd": 0},
    ],
    "categories": [{"id": 3, "name": "cat"}, {"id": 5, "name": "dog"}],
}
RESULTS = [
    {"image_id": 7, "category_id": 3, "bbox": [11, 10, 40, 40], "score": 0.9},
    {"image_id": 9, "category_id": 5, "bbox": [20, 20, 12, 50], "score": 0.8},
    {"image_id": 9, "category_id": 3, "bbox": [20, 20, 12, 50], "score": 0.7},
]


@pytest.fixture
def evaluate(tmp_path):
    """Writes both files and gives the figures of `dino-detr evaluate`."""

    def evaluate(results, annotations=ANNOTATIONS, *options):
        for name, content in (("results.json", results), ("annotations.json", annotations)):
            (tmp_path / name).write_text(json.dumps(content))
        files = [str(tmp_path / name) for name in ("results.json", "annotations.json", "figures.json")]
        Path(files[2]).unlink(missing_ok=True)
        main(["evaluate", files[0], "--dataset", files[1], "--output", files[2], *options])
        return json.loads((tmp_path / "figures.json").read_text())

    return evaluate


def without(rows, *fields):
    return [{key: value for key, value in row.items() if key not in fields} for row in rows]


def test_files_of_other_tools_are_scored(evaluate, tmp_path):
    """More fields than needed, a mask beside the box, no names, ids of text: always the same figures."""
    figures = evaluate(RESULTS)
    truth = COCO(str(tmp_path / "annotations.json"))
    judge = COCOeval(truth, truth.loadRes(copy.deepcopy(RESULTS)), "bbox")
    judge.evaluate()
    judge.accumulate()
    judge.summarize()
    per_class = figures.pop("per_class")
    assert list(figures.values()) == pytest.approx(judge.stats.tolist(), abs=1e-12)
    assert per_class["cat"]["APm"] == pytest.approx(1) and per_class["cat"]["APs"] == -1

    mask = {"size": [480, 640], "counts": "abc"}
    extra = [row | {"id": 5, "area": 3.0, "iscrowd": 0, "segmentation": mask, "file": "a.jpg"} for row in RESULTS]
    assert evaluate(extra) == {**figures, "per_class": per_class}
    nameless = {**ANNOTATIONS, "categories": [{"id": 3}, {"id": 5}]}
    assert evaluate(RESULTS, nameless) == {**figures, "per_class": {"3": per_class["cat"], "5": per_class["dog"]}}
    as_text = copy.deepcopy(ANNOTATIONS)
    for row in [*as_text["annotations"], *(results := copy.deepcopy(RESULTS))]:
        row["image_id"] = f"photo {row['image_id']}"
    for image in as_text["images"]:
        image["id"] = f"photo {image['id']}"
    assert evaluate(results, as_text) == {**figures, "per_class": per_class}
    assert evaluate(RESULTS, ANNOTATIONS, "--scorer", "pycocotools") == {**figures, "per_class": per_class}


def test_no_detections_are_an_average_precision_of_0(evaluate):
    figures = evaluate([])
    assert figures["AP"] == figures["AR100"] == 0
    assert figures["per_class"]["dog"] == {"AP": 0, "AP50": 0, "AP75": 0, "APs": 0, "APm": -1, "APl": -1}


def test_what_is_no_results_file_is_said(evaluate):
    mask = {"size": [480, 640], "counts": "abc"}
    boxless = {**ANNOTATIONS, "annotations": without(ANNOTATIONS["annotations"], "bbox")}
    cases = [
        ([row | {"segmentation": mask} for row in without(RESULTS, "bbox")], ANNOTATIONS,
         r"results\[0\] has no bbox; .*masks alone are not scored"),
        ([RESULTS[0], RESULTS[1] | {"image_id": "8"}], ANNOTATIONS,
         r"results\[1\]: image_id '8' is not in the annotations; give"),
        ([RESULTS[0] | {"image_id": "a"}], ANNOTATIONS, r"results\[0\]: image_id 'a' .* give the annotation file"),
        ([RESULTS[0], RESULTS[1] | {"bbox": [1, 2, 3]}], ANNOTATIONS, r"results\[1\]: bbox is \[1, 2, 3\]; it must be"),
        ([RESULTS[0] | {"score": None}], ANNOTATIONS, r"results\[0\]: score is None; it must be a finite number"),
        ([RESULTS[0] | {"score": float("nan")}], ANNOTATIONS, r"results\[0\]: score is nan"),
        ({"annotations": RESULTS}, ANNOTATIONS, "the results are no list"),
        ([[7, 3, 0.5]], ANNOTATIONS, r"results\[0\] has no bbox, category_id, image_id, score"),
        (RESULTS, RESULTS, "the annotations have no annotations, categories, images"),
        (RESULTS, {"images": [], "categories": []}, "the annotations have no annotations;"),
        (RESULTS, boxless, "annotation 1 of image 7: bbox is None; it must be"),
    ]  # fmt: skip
    for results, annotations, message in cases:
        with pytest.raises(SystemExit, match=rf"dino-detr: .*results\.json against .*annotations\.json: {message}"):
            evaluate(results, annotations)
    with pytest.raises(SystemExit, match="--one_label_per_query and --nms_threshold go with a checkpoint"):
        evaluate(RESULTS, ANNOTATIONS, "--nms_threshold", "0.5")


def test_annotations_are_read_as_for_training(evaluate, tmp_path, capsys):
    """What other tools leave out or write otherwise: the same figures, and what is dropped is said."""
    figures = evaluate(RESULTS)
    images, annotations = (copy.deepcopy(ANNOTATIONS[name]) for name in ("images", "annotations"))
    same = {
        "null area": [entry | {"area": None, "bbox": entry["bbox"]} for entry in annotations],
        "null iscrowd": [entry | {"iscrowd": None} for entry in annotations],
        "text": [{key: str(value) for key, value in entry.items()} for entry in annotations],
        "repeated ids": [entry | {"id": 1} for entry in annotations],
        "no ids": without(annotations, "id"),
        "more": [
            *annotations,
            None,
            {},
            "x",
            annotations[0] | {"bbox": [1, 1, 0, 5]},
            annotations[0] | {"image_id": 5},
        ],
    }
    for name, changed in same.items():
        assert evaluate(RESULTS, ANNOTATIONS | {"annotations": changed}) == figures, name
    error = capsys.readouterr().err
    for said in (
        "3  annotation entries that are no objects",
        "boxes of no width or height",
        "annotations of unknown images",
        "annotation 1: image_id 5",  # with its entry
    ):
        assert said.removeprefix("3  ") in error
    assert (
        evaluate(RESULTS, ANNOTATIONS | {"categories": [{"id": 3, "name": "cat"}, {"id": "5", "name": "dog"}]})
        == figures
    )
    assert (
        evaluate(RESULTS, ANNOTATIONS | {"images": [images[0], images[1] | {"id": 9.0}, {"file_name": "c.jpg"}]})
        == figures
    )
    text = [{key: str(value) for key, value in row.items()} for row in RESULTS]
    assert evaluate(text) == figures
    for encoding in ("utf-8-sig", "utf-16"):
        files = []
        for name, content in (("a", ANNOTATIONS), ("r", RESULTS)):
            files.append(tmp_path / f"{encoding}_{name}.json")
            files[-1].write_bytes(json.dumps(content).encode(encoding))
        main(["evaluate", str(files[1]), "--dataset", str(files[0]), "--output", str(tmp_path / f"{encoding}.figures")])
        assert json.loads((tmp_path / f"{encoding}.figures").read_text()) == figures


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("score", "high", "score is 'high'; it must be a finite number"),
        ("score", "nan", "score is 'nan'; it must be a finite number"),
        ("score", True, "score is True; it must be a finite number"),
        ("score", [0.5], r"score is \[0.5\]; it must be a finite number"),
        ("bbox", [1, 2, float("inf"), 4], r"bbox is \[1, 2, inf, 4\]; it must be \[x, y, width, height\] in pixels"),
        ("bbox", [1, 2, 1e300, 4], r"bbox is \[1, 2, 1e\+300, 4\]"),
        ("bbox", [1, 2, True, 4], r"bbox is \[1, 2, True, 4\]"),
        ("bbox", "1,2,3,4", "bbox is '1,2,3,4'"),
        ("bbox", {"x": 1}, "bbox is {'x': 1}"),
        ("image_id", 7.5, "image_id 7.5 is not in the annotations"),
        ("image_id", True, "image_id True is not in the annotations"),
        ("image_id", None, "image_id None is not in the annotations"),
        ("image_id", [7], r"image_id \[7\] is not in the annotations"),
        ("image_id", 10**30, "image_id 1000000000000000000000000000000 is not"),
        ("category_id", "cat", "category_id 'cat' is not in the annotations"),
        ("category_id", float("nan"), "category_id nan is not in the annotations"),
    ],
)
def test_a_bad_value_of_a_result_is_named_with_row_and_field(evaluate, field, value, message):
    with pytest.raises(
        SystemExit, match=rf"results\.json against .*annotations\.json: results\[1\]: {message}"
    ) as error:
        evaluate([RESULTS[0], RESULTS[1] | {field: value}, RESULTS[2]])
    assert "\n" not in str(error.value)


def test_rows_that_are_no_objects_are_named(evaluate):
    for row in (None, 5, "x", [], {}):
        with pytest.raises(SystemExit, match=r"results\[1\] has no bbox, category_id, image_id, score"):
            evaluate([RESULTS[0], row])


def test_an_image_without_an_id_is_said_to_be_why_a_result_has_none(evaluate):
    annotations = ANNOTATIONS | {"images": [{"file_name": "a.jpg"}, ANNOTATIONS["images"][1]]}
    with pytest.raises(
        SystemExit, match=r"results\[0\]: image_id 7 is not in the annotations; its images\[0\] has no id"
    ):
        evaluate(RESULTS, annotations)


def test_results_and_annotations_by_any_name(evaluate, tmp_path, monkeypatch):
    """A file is results, whatever it is called; what is packed, or no list, is said to be."""
    figures = evaluate(RESULTS)
    monkeypatch.chdir(tmp_path)
    for results, annotations in (("RESULTS.JSON", "annotations.json"), ("results.txt", "ANNOTATIONS.JSON")):
        Path(results).write_bytes(Path("results.json").read_bytes())
        Path(annotations).write_bytes(Path("annotations.json").read_bytes())
        main(["evaluate", results, "--dataset", annotations, "--output", f"{results}.out"])
        assert json.loads(Path(f"{results}.out").read_text()) == figures
    Path("packed.json").write_bytes(gzip.compress(Path("results.json").read_bytes()))
    Path("packed.json.gz").write_bytes(Path("packed.json").read_bytes())
    Path("null.json").write_text(json.dumps(ANNOTATIONS | {"categories": {"1": "cat"}}))
    for results, annotations, said in (
        ("packed.json", "annotations.json", r"packed\.json is not readable as JSON: it is packed"),
        ("packed.json.gz", "annotations.json", r"packed\.json\.gz is not readable as JSON: it is packed"),
        ("results.json", "packed.json", r"packed\.json is not readable as JSON: it is packed"),
        ("results.json", "packed.json.gz", r"No data set in packed\.json\.gz: an annotation file is JSON, unpacked"),
        ("results.json", "null.json", r"the annotations have no categories \(categories is no list\)"),
    ):
        with pytest.raises(SystemExit, match=said):
            main(["evaluate", results, "--dataset", annotations])


def test_numbers_of_thousands_of_digits_are_a_value_like_others(evaluate, tmp_path, capsys):
    evaluate(RESULTS)
    text = json.dumps(
        ANNOTATIONS | {"annotations": [ANNOTATIONS["annotations"][0] | {"area": "AREA", "iscrowd": "no"}]}
    )
    (tmp_path / "annotations.json").write_text(text.replace('"AREA"', "9" * 5000))
    main(["evaluate", str(tmp_path / "results.json"), "--dataset", str(tmp_path / "annotations.json")])
    said = capsys.readouterr().err
    assert "area inf" in said and "iscrowd 'no'" in said and "written as text" not in said
