"""`predict` finds every image once, draws it once, and overwrites nothing but its own."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.launching import ENVIRONMENT, served

from dino_detr.cli import main


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
    with served(photos) as address:
        named = [f"{address}/x.jpg?size=2", f"{address}/missing.jpg", str(photos / "x*.jpg")]
        main(["predict", str(checkpoint), *named, "--output", str(tmp_path / "named"), "--device", "cpu"])
    odd = [
        address.replace("http", "HTTP") + "/a b.jpg",
        "http://[bad/c.jpg",
        "http://a\tb/d.jpg",
        "http://127.0.0.1:x/é.jpg",
    ]
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
        (["--threshold", "50"], "--threshold 50: a score, from 0 to 1"),
        (["--threshold", "cat=0.3,dog"], "--threshold cat=0.3,dog: a score, from 0 to 1, or one of each"),
        (["--threshold", "cow=0.3"], "threshold: 'cow' is none of the classes cat, dog, emu"),
        (["--tiles", "4"], "tiles 4: the side of a tile, at least 16 pixels"),
        (["--tiles", "64", "--overlap", "1"], "overlap 1.0: a share of a tile's side"),
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
