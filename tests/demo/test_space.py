"""The folder of a Space has all that its page needs, and nothing of the machine; `push` uploads it."""

import re
import shutil
import subprocess
import sys

import pytest
import yaml
from helpers.detecting import save_detector
from helpers.launching import ENVIRONMENT

from dino_detr import Detector
from dino_detr.cli import main


@pytest.fixture
def space(tmp_path, monkeypatch):
    """Written for a run of a threshold of its own, which is gone afterwards."""
    pytest.importorskip("gradio")
    run = save_detector(tmp_path / "runs" / "mine")
    (run / "figures.json").write_text('{"threshold": 0.25, "host": "my_machine"}')
    (run / "optimizer.pt").write_text("state")
    main(["demo", str(run), "--space", str(tmp_path / "space")])
    shutil.rmtree(tmp_path / "runs")
    return tmp_path / "space"


def test_a_space_runs_as_it_is(space):
    files = {path.relative_to(space).as_posix() for path in space.rglob("*") if path.is_file()}
    assert {"app.py", "requirements.txt", "README.md", "mine/model.safetensors", "mine/figures.json"} < files
    assert "mine/optimizer.pt" not in files
    for name in ("app.py", "README.md", "requirements.txt", "mine/figures.json"):
        assert not re.search(r"/tmp|my_machine|runs", (space / name).read_text()), name
    _, front_matter, _ = (space / "README.md").read_text().split("---\n", 2)
    front_matter = yaml.safe_load(front_matter)
    assert front_matter["sdk"] == "gradio" and front_matter["app_file"] == "app.py"
    assert re.fullmatch(r"dino-detr\[demo\]==[\d.]+\n", (space / "requirements.txt").read_text())
    assert Detector(space / "mine", "cpu").threshold == 0.25

    code = (space / "app.py").read_text().replace(".launch()", ".launch(prevent_thread_lock=True, quiet=True)")
    paths = {"PYTHONPATH": ":".join([ENVIRONMENT["PYTHONPATH"], *sys.path[1:]])}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=space, env=ENVIRONMENT | paths, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_a_space_is_pushed(space, hub, capsys):
    main(["push", str(space), "someone/try"])
    files = hub.repositories["someone/try"].commits[-1].files
    for path in (path for path in space.rglob("*") if path.is_file()):
        assert files[path.relative_to(space).as_posix()] == path.read_bytes()
    assert "someone/try/commit/" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="--revision and --license go with a run"):
        main(["push", str(space), "someone/try", "--revision", "v1"])


def test_a_space_is_not_written_over(space, tmp_path):
    with pytest.raises(SystemExit, match="not an empty folder; choose another --space"):
        main(["demo", "you/detector", "--space", str(space)])
    main(["demo", "you/detector", "you/another", "--space", str(tmp_path / "other")])
    assert '["you/detector", "you/another"]' in (tmp_path / "other" / "app.py").read_text()
    assert not list((tmp_path / "other").rglob("*.safetensors"))
