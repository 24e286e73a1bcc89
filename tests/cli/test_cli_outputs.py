"""Nothing the user made is overwritten by a verb, and a place that cannot be written is found before the work."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.launching import ENVIRONMENT
from helpers.tiny import tiny_detector
from PIL import Image

from dino_detr import DinoDetrImageProcessor
from dino_detr.cli import main
from dino_detr.inference import name_pictures


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    tiny_detector().save_pretrained(folder)
    DinoDetrImageProcessor(size={"shortest_edge": 64, "longest_edge": 96}).save_pretrained(folder)
    return folder


@pytest.fixture
def photos(tmp_path) -> Path:
    """Folders in folders, one name three times over, and a file that is no image."""
    for number, name in enumerate(("x.jpg", "x.png", "x_1.jpg", "inside/X.jpg", "inside/deeper/y.webp")):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (90, 60), (40 * number, 90, 200)).save(path)
    (tmp_path / "photos" / "broken.jpg").write_bytes(b"this is no image")
    (tmp_path / "photos" / "notes.txt").write_text("nor is this")
    return tmp_path / "photos"


HISTORY = "Step,bbox/AP\n" + "".join(f"{step},{50 - 40 / step}\n" for step in range(1, 12))
WRITERS = {
    "evaluate --output": ["evaluate", "results.json", "--dataset", "annotations.json", "--output"],
    "evaluate --predictions": ["evaluate", "CHECKPOINT", "--dataset", "digits", "--predictions"],
    "evaluate --report": ["evaluate", "results.json", "--dataset", "annotations.json", "--report"],
    "predict --output": ["predict", "CHECKPOINT", "photo.png", "--output"],
    "forecast --plot": ["forecast", "history.csv", "--plot"],
    "forecast --output": ["forecast", "history.csv", "--output"],
    "check-data --output": ["check-data", "digits", "--show", "2", "--output"],
    "convert --output": ["convert", "weights.pth", "--reference-config", "config.json", "--output"],
    "import-data --output": ["import-data", "yolo", "somewhere", "--output"],
    "benchmark --output": ["benchmark", "--output"],
    "compare --plot": ["compare", "one", "two", "--plot"],
    "compare --output": ["compare", "one", "two", "--plot", "new.png", "--output"],
}


@pytest.fixture
def no_work(monkeypatch):
    """Fails a test in which a verb starts its work."""

    def work(*_, **__):
        pytest.fail("the work has begun")

    for name in (
        "dino_detr.inference.Detector.__init__", "dino_detr.evaluation.coco.results.clean_results",
        "dino_detr.evaluation.forecast.forecast_ap", "dino_detr.data.check.check_split",
        "dino_detr.hub.load_reference_checkpoint", "dino_detr.data.importing.import_data",
        "dino_detr.benchmark.run_benchmark", "dino_detr.evaluation.comparison.read_runs",
    ):  # fmt: skip
        monkeypatch.setattr(name, work)


@pytest.mark.parametrize("writer", [writer for writer in WRITERS if "benchmark" not in writer])  # see test_benchmark.py
def test_what_is_there_is_never_overwritten(writer, checkpoint, no_work, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("annotations.json").write_text(json.dumps({"images": [], "annotations": [], "categories": []}))
    Path("results.json").write_text("[]")
    Path("history.csv").write_text(HISTORY)
    Image.new("RGB", (9, 9)).save("photo.png")
    (tmp_path / "taken").mkdir()
    for name in ("detections.json", "config.json"):
        (tmp_path / "taken" / name).write_text("mine")
    folder = writer.split()[0] in ("predict", "convert", "import-data") or "report" in writer
    taken = "taken" if folder else "annotations.json"
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(SystemExit, match=taken):
        main([part.replace("CHECKPOINT", str(checkpoint)) for part in [*WRITERS[writer], taken]])
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


@pytest.mark.parametrize("writer", WRITERS)
def test_a_place_that_cannot_be_written_is_found_before_the_work(writer, checkpoint, no_work, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("mine")
    Image.new("RGB", (9, 9)).save("photo.png")
    with pytest.raises(SystemExit, match="cannot write to"):
        main([part.replace("CHECKPOINT", str(checkpoint)) for part in [*WRITERS[writer], "file/new"]])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "photo.png"]


def test_two_outputs_are_two_files(tmp_path):
    same = [str(tmp_path / "same.json"), str(tmp_path / "x" / ".." / "same.json")]
    with pytest.raises(SystemExit, match="--plot and --output are both"):
        main(["forecast", "history.csv", "--plot", same[0], "--output", same[1]])


def test_every_image_has_a_picture_of_its_own(checkpoint, photos, tmp_path, capsys):
    output = tmp_path / "out"
    main(["predict", str(checkpoint), str(photos), str(photos / "x.jpg"), "--output", str(output)])
    entries = json.loads((output / "detections.json").read_text())
    assert len(entries) == 6  # the one that was named twice is one
    pictures = [entry["picture"] for entry in entries if entry["picture"]]
    assert len({name.casefold() for name in pictures}) == 5
    assert all((output / name).is_file() for name in pictures)
    (broken,) = [entry for entry in entries if "error" in entry]
    assert broken["image"].endswith("broken.jpg") and broken["picture"] is None
    printed = capsys.readouterr()
    assert "broken.jpg: cannot be read" in printed.err and "1 of 6 images could not be read" in printed.err


@pytest.mark.parametrize("seed", range(20))
def test_names_of_pictures_never_meet(seed):
    import random

    draw = random.Random(seed)
    stems = [draw.choice(["x", "X", "x_1", "x_2", "x_1_1", "y"]) for _ in range(12)]
    taken = {"x.jpg", "Y.JPG"} if seed % 2 else set()
    names = name_pictures(stems, taken)
    assert len({name.casefold() for name in names}) == len(stems)
    assert not {name.casefold() for name in names} & {name.casefold() for name in taken}
    assert all(name.startswith(stem) for name, stem in zip(names, stems))


def test_predict_can_be_repeated(checkpoint, photos, tmp_path):
    """Only what predict wrote is replaced: photographs in the output folder stay."""
    output = tmp_path / "out"
    output.mkdir()
    shutil.copy(photos / "x.jpg", output / "x.jpg")
    mine = (output / "x.jpg").read_bytes()
    main(["predict", str(checkpoint), str(photos), "--output", str(output)])
    first = {path.name for path in output.iterdir()}
    assert (output / "x.jpg").read_bytes() == mine
    with pytest.raises(SystemExit, match="--overwrite"):
        main(["predict", str(checkpoint), str(photos), "--output", str(output)])
    main(["predict", str(checkpoint), str(photos), "--output", str(output), "--overwrite"])
    assert {path.name for path in output.iterdir()} == first and (output / "x.jpg").read_bytes() == mine
    main(["predict", str(checkpoint), str(photos / "x.png"), "--output", str(output), "--overwrite"])
    assert len(list(output.iterdir())) == 4 and (output / "x.jpg").read_bytes() == mine  # 2 JSON, a picture, x.jpg


def test_images_from_patterns_addresses_and_standard_input(checkpoint, photos, tmp_path):
    (tmp_path / "list.txt").write_text(f"{photos / 'x.png'}\n{photos / 'x_1.jpg'}\n")
    served = subprocess.Popen(
        [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1", "--directory", photos],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    try:
        port = served.stdout.readline().split(" port ")[1].split()[0]
        named = [
            f"http://127.0.0.1:{port}/x.jpg?size=2",
            f"http://127.0.0.1:{port}/missing.jpg",
            str(photos / "x*.jpg"),
        ]
        main(["predict", str(checkpoint), *named, "--output", str(tmp_path / "named"), "--device", "cpu"])
    finally:
        served.kill()
    odd = [f"HTTP://127.0.0.1:{port}/a b.jpg", "http://[bad/c.jpg", "http://a\tb/d.jpg", "http://127.0.0.1:x/é.jpg"]
    main(["predict", str(checkpoint), str(photos / "x.jpg"), *odd, "--output", str(tmp_path / "odd")])
    entries = json.loads((tmp_path / "odd" / "detections.json").read_text())
    assert [("cannot be fetched" in entry.get("error", "")) for entry in entries] == [False, True, True, True, True]
    entries = json.loads((tmp_path / "named" / "detections.json").read_text())
    assert [Path(entry["image"]).name for entry in entries] == ["x.jpg?size=2", "missing.jpg", "x.jpg", "x_1.jpg"]
    assert "cannot be fetched" in entries[1]["error"] and entries[0]["detections"] == entries[2]["detections"]

    command = [sys.executable, "-m", "dino_detr.cli", "predict", str(checkpoint), "-", "--output"]
    for name, images, count in (("image", photos / "x.png", 1), ("names", tmp_path / "list.txt", 2)):
        with open(images, "rb") as file:
            subprocess.run([*command, tmp_path / name], stdin=file, check=True, env=ENVIRONMENT, capture_output=True)
        entries = json.loads((tmp_path / name / "detections.json").read_text())
        assert len(entries) == count and all(entry["picture"] for entry in entries)


def test_the_best_score_is_named_where_nothing_passes(checkpoint, photos, tmp_path, capsys):
    main(["predict", str(checkpoint), str(photos / "x.jpg"), "--output", str(tmp_path / "out"), "--threshold", "0.999"])
    assert "0 detections above 1; the best is" in capsys.readouterr().out.replace("0.999", "1")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--device", "tpu"], "no device 'tpu'"),
        (["--device", "cuda:99"], "no device 'cuda:99'"),
        (["--batch_size", "0"], "at least 1"),
        (["nowhere/*.jpg"], "no image nowhere"),
        (["nowhere.jpg"], "no image nowhere"),
        (["--device", "meta"], "no device 'meta'"),
        (["--threshold", "nan"], "--threshold nan: a score, from 0 to 1"),
        (["--threshold", "50"], "--threshold 50.0: a score, from 0 to 1"),
    ],
)
def test_what_cannot_be_predicted_is_said(arguments, said, checkpoint, photos, tmp_path):
    with pytest.raises(SystemExit, match=said):
        main(["predict", str(checkpoint), str(photos / "x.jpg"), *arguments, "--output", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("source", ["/nowhere/run", "./run", "photos/run", "photos/x.jpg", "nowhere", "a b/c"])
def test_what_is_no_checkpoint_is_said_to_be_none(source, photos, tmp_path, monkeypatch):
    """Only user/name may be on the Hub, and not where `user` is a folder here."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=f"no checkpoint folder {source}"):
        main(["predict", source, "photos/x.jpg", "--output", "out"])


def test_pictures_of_pictures_are_not_drawn(checkpoint, photos, tmp_path):
    with pytest.raises(SystemExit, match=r"--output .* is the folder of the images; choose another"):
        main(["predict", str(checkpoint), str(photos), "--output", str(photos / "inside" / "..")])


def test_linked_folders_are_looked_into_once(checkpoint, photos, tmp_path):
    shutil.move(photos / "inside", tmp_path / "elsewhere")
    (photos / "linked").symlink_to(tmp_path / "elsewhere")
    (photos / "circle").symlink_to(photos)
    main(["predict", str(checkpoint), str(photos), "--output", str(tmp_path / "out")])
    entries = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert sum(entry["picture"] is not None for entry in entries) == 5


@pytest.mark.parametrize("content", ["", "{}", "null", "[1]", '[{"picture": 5, "detections": []}]', "[" * 10**5, '"x"'])
def test_what_predict_did_not_write_is_not_written_over(content, checkpoint, photos, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "detections.json").write_text(content)
    with pytest.raises(SystemExit, match=r"detections\.json is not predict's"):
        main(["predict", str(checkpoint), str(photos / "x.jpg"), "--output", str(tmp_path / "out"), "--overwrite"])
    assert (tmp_path / "out" / "detections.json").read_text() == content


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--output", "link.json"], "link.json exists"),
        (["--output", "report/report.html", "--report", "report"], "--output and --report are both"),
        (["--output", "report/report.json", "--report", "report"], "--output and --report are both"),
        (["--batch_size", "0"], "--batch_size 0: at least 1"),
        (["--num_workers", "-1"], "--num_workers -1: at least 0"),
    ],
)
def test_what_evaluate_cannot_do_is_said_before_its_work(arguments, said, no_work, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("link.json").symlink_to(tmp_path / "nowhere.json")
    Path("results.json").write_text("[]")
    with pytest.raises(SystemExit, match=said):
        main(["evaluate", "results.json", "--dataset", "annotations.json", *arguments])
