"""The blocks of docs/guides/clients.md for packages that not every test has; test_docs.py runs the others."""

import re
import sys

import pytest
from helpers.launching import ROOT, run

PAGE = (ROOT / "docs" / "guides" / "clients.md").read_text()
BLOCKS = dict(re.findall(r"^## (\S+)\n+```py\n(.*?)^```", PAGE, flags=re.M | re.S))


def test_the_page_has_them():
    assert set(BLOCKS) == {"torchao", "optimum-quanto", "fiftyone"}


@pytest.mark.slow
@pytest.mark.parametrize("name", BLOCKS)
def test_a_block(name, checkpoint, photos, tmp_path):
    pytest.importorskip(name.replace("-", "."))
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "quickstart").symlink_to(checkpoint)
    (tmp_path / "photo.jpg").symlink_to(photos / "0.png")
    run(sys.executable, "-c", BLOCKS[name] + "\nprint(found)", cwd=tmp_path)
