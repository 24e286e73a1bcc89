"""The report's page shows the numbers, refers to nothing but the files beside it, and survives odd data."""

import json
import shutil
import warnings
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest
from helpers.coco_by_hand import FIGURES, make_data, pycocotools_figures
from PIL import Image

from dino_detr.cli import main
from dino_detr.evaluation import score_results
from dino_detr.evaluation.coco.results import clean_results, images_of_results
from dino_detr.evaluation.evaluate import Evaluation
from dino_detr.evaluation.report import write_report


class Page(HTMLParser):
    """Tags with their attributes, texts, and what is referred to."""

    def __init__(self, folder):
        super().__init__()
        self.tags, self.texts, self.links = [], [], []
        self.feed((folder / "report.html").read_text(encoding="utf-8"))
        self.text = " ".join(" ".join(self.texts).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.links += [value for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]

    def handle_data(self, data):
        self.texts.append(data)

    def count(self, tag, **attributes):
        return sum(name == tag and attributes.items() <= attrs.items() for name, attrs in self.tags)


def check(folder):
    """The page and the numbers of a report that is whole: all it refers to is there, and nothing is fetched."""
    page = Page(folder)
    for link in page.links:
        assert not link.startswith(("/", "http:", "https:", "//", "data:", "file:")), link
        assert (folder / link).is_file(), link
    html = (folder / "report.html").read_text(encoding="utf-8")
    assert "<script" not in html and "@import" not in html and "url(" not in html
    for path in folder.glob("*.svg"):
        ElementTree.parse(path)  # well-formed
        assert "<image" not in path.read_text() or "data:image/png;base64" in path.read_text()
    return page, json.loads((folder / "report.json").read_text())


def report_of(annotations, results, folder):
    figures = score_results(results, annotations)
    evaluation = Evaluation(figures, None, *images_of_results(*clean_results(results, annotations)))
    write_report(folder, {"results": "results.json"}, evaluation, "the test has none")
    return check(folder)


@pytest.fixture
def results(data, tmp_path):
    """A results file on the scenes: the first image has all its objects found, the others lose and gain some."""
    annotations = json.loads((data / "annotations" / "instances_val.json").read_text())
    rows = []
    for number, entry in enumerate(annotations["annotations"]):
        x, y, w, h = entry["bbox"]
        row = {"image_id": entry["image_id"], "category_id": entry["category_id"], "score": 0.9}
        if entry["image_id"] == 100 or number % 3 == 0:
            rows.append({**row, "bbox": [x, y, w, h]})
        elif number % 3 == 1:
            rows.append({**row, "category_id": 2, "score": 0.95, "bbox": [x + 1, y, w, h]})
    path = tmp_path / "results.json"
    path.write_text(json.dumps(rows))
    return path


def test_report_of_results_on_images(data, results, tmp_path, capsys):
    folder = tmp_path / "report"
    command = ["evaluate", str(results), "--dataset", str(data), "--split", "val", "--report", str(folder)]
    main([*command, "--output", str(tmp_path / "figures.json")])
    page, report = check(folder)
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert report["figures"] == {name: figures[name] for name in FIGURES}
    for name in FIGURES:
        assert ("-" if figures[name] < 0 else f"{figures[name]:.3f}") in page.texts
    annotations = json.loads((data / "annotations" / "instances_val.json").read_text())
    assert report["evaluated"] == {
        "results": str(results), "data set": str(data), "split": "val", "images": 7,
        "objects": len(annotations["annotations"]), "detections": len(json.loads(results.read_text())),
    }  # fmt: skip
    assert sum(values["objects"] for values in report["per_class"].values()) == len(annotations["annotations"])
    assert all(f"digit {digit}" in page.texts for digit in range(10))

    worst = report["worst_images"]
    assert len(worst) == 6 and 100 not in [entry["image_id"] for entry in worst]
    totals = [entry["missed"] + entry["wrong class"] + entry["badly placed"] + entry["false"] for entry in worst]
    assert totals == sorted(totals, reverse=True) and totals[-1] > 0
    assert sum(entry["missed"] for entry in worst) == report["errors"]["missed"]
    for entry in worst:
        assert Image.open(folder / entry["picture"]).size == (entry["width"], entry["height"])
        assert f"Image {entry['image_id']} ({entry['image_id'] - 100:03}.png): " in page.text
    drawn = [attrs for tag, attrs in page.tags if tag == "rect" and "stroke" in attrs]
    for entry in annotations["annotations"]:
        x, y, w, h = entry["bbox"]
        place = {"x": f"{x:.1f}", "y": f"{y:.1f}", "width": f"{w:.1f}", "height": f"{h:.1f}"}
        assert any(place.items() <= attrs.items() for attrs in drawn) == (entry["image_id"] != 100)
    kinds = ("missed", "wrong class")
    assert all(any(text.startswith(f"{kind}: digit") for text in page.texts) for kind in kinds)

    before = (folder / "report.html").read_bytes()
    with pytest.raises(SystemExit, match="is not an empty folder; choose another --report"):
        main(command)
    assert (folder / "report.html").read_bytes() == before


def test_annotations_without_images_leave_pictures_out(data, results, tmp_path):
    alone = tmp_path / "elsewhere" / "annotations.json"
    alone.parent.mkdir()
    shutil.copy(data / "annotations" / "instances_val.json", alone)
    folder = tmp_path / "report"
    main(["evaluate", str(results), "--dataset", str(alone), "--report", str(folder)])
    page, report = check(folder)
    assert "Pictures are left out:" in page.text and "000.png" in page.text
    assert report["worst_images"] == [] and not page.count("rect") and not (folder / "pictures").exists()
    assert report["errors"]["missed"] > 0 and report["most_confused"][0]["predicted"] == "digit 0"


def test_curves_are_those_of_pycocotools(tmp_path):
    """Their means are its AP at these IoUs."""
    annotations, results = make_data(seed=8)
    expected = pycocotools_figures(annotations, results, tmp_path)
    _, report = report_of(annotations, results, tmp_path / "report")
    curves = report["precision_recall"]
    assert curves["IoU 0.50"]["class 90"] is None  # has no object
    fifty, seventy_five = ([np.mean(c) for c in curves[iou].values() if c] for iou in ("IoU 0.50", "IoU 0.75"))
    assert [np.mean(fifty), np.mean(seventy_five)] == pytest.approx([expected["AP50"], expected["AP75"]], abs=1e-4)
    assert fifty[0] == pytest.approx(expected["per_class"]["class 2"]["AP50"], abs=1e-4)


NAMES = ["<script>alert('x')</script> & co", "犬 كلب собака", "$5_{a}$ to 6", "_hidden \x07 bell " + "long " * 20]


def renamed(annotations, names):
    ids = [category["id"] for category in annotations["categories"]]
    return {**annotations, "categories": [{"id": i, "name": name} for i, name in zip(ids, names)]}


def test_names_of_any_kind_are_text(tmp_path):
    annotations, results = make_data(seed=9)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # such as of glyphs
        page, report = report_of(renamed(annotations, NAMES), results, tmp_path)
    assert all(name in page.texts for name in NAMES[:3])
    drawn = " ".join(ElementTree.parse(tmp_path / "confusion.svg").getroot().itertext())
    assert "<script>alert" in drawn and "犬 كلب собака" in drawn and "$5_{a}$ to 6" in drawn
    assert set(NAMES) == set(report["per_class"])


@pytest.mark.parametrize("case", ["one class", "no detections", "no objects", "no classes", "80 classes", "percent"])
def test_odd_data_has_a_report(case, tmp_path):
    annotations, results = make_data(seed=10, num_images=6)
    if case == "one class":
        annotations = {**annotations, "categories": [{"id": 2, "name": "thing"}]}
        annotations["annotations"] = [o for o in annotations["annotations"] if o["category_id"] == 2]
        results = [row for row in results if row["category_id"] == 2]
    elif case == "no detections":
        results = []
    elif case == "no objects":
        annotations = {**annotations, "annotations": []}
    elif case == "no classes":
        annotations, results = {**annotations, "annotations": [], "categories": []}, []
    elif case == "80 classes":
        rng = np.random.default_rng(0)
        annotations["categories"] = [{"id": i, "name": f"kind {i}"} for i in range(80)]
        for entry in annotations["annotations"]:
            entry["category_id"] = int(rng.integers(80))
        for entry in annotations["annotations"][:4]:
            entry["category_id"] = 8
        results = [{**entry, "score": 0.9} for entry in annotations["annotations"]]
        results = [{**row, "category_id": 70} if row["category_id"] == 8 else row for row in results]
    elif case == "percent":
        results = [{**row, "score": 100 * row["score"]} for row in results]
    page, report = report_of(annotations, results, tmp_path / "report")
    size = len(annotations["categories"]) + 1
    assert np.shape(report["confusion"]["counts"]) == (size, size)
    objects = sum(not o["iscrowd"] for o in annotations["annotations"])
    assert report["evaluated"]["objects"] == objects
    assert np.sum(report["confusion"]["counts"][:-1]) == objects
    assert ("calibration.svg" in page.links) == (case != "percent")
    if case == "80 classes":
        shown = " ".join(ElementTree.parse(tmp_path / "report" / "confusion.svg").getroot().itertext())
        assert "55 other classes" in shown and "kind 8" in shown and "kind 70" in shown
        pair = report["most_confused"][0]
        assert (pair["true"], pair["predicted"]) == ("kind 8", "kind 70")
