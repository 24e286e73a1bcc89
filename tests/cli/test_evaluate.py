"""What `evaluate` cannot do is said first. Its figures are tested in `evaluation/test_inference.py` and `coco/`."""

from pathlib import Path

import pytest

from dino_detr.cli import main


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
