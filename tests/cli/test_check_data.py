"""`check-data --show` draws what training would see. What it says of data is tested in `data/test_check.py`."""

from pathlib import Path

import pytest
from PIL import Image

from dino_detr.cli import main


def test_check_data_shows_samples_of_a_recipe(data, tmp_path, capsys):
    """The recipe asks for bf16, which not every machine that shows data has."""
    path, recipe = tmp_path / "grid.png", Path(__file__).parent.parent.parent / "recipes" / "finetune.yaml"
    main(["check-data", str(data), "--show", "3", "--recipe", str(recipe), "--output", str(path)])
    assert "3 samples of train" in capsys.readouterr().out
    assert max(Image.open(path).size) <= 3 * 480
    before = path.read_bytes()
    with pytest.raises(SystemExit, match=r"grid\.png exists; choose another --output"):
        main(["check-data", str(data), "--show", "5", "--output", str(path)])
    assert path.read_bytes() == before
