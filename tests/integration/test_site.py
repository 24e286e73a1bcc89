"""The site of docs/ builds without a warning and without a network, and its generated pages say what the code says."""

import re
import runpy
import sys
from pathlib import Path

import pytest
from helpers.launching import ROOT, run

GENERATED = runpy.run_path(str(ROOT / "docs" / "make_reference.py"))["PAGES"]


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    run(sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", folder)
    return folder


def test_the_site_has_a_page_for_each_document(site):
    for path in (ROOT / "docs").rglob("*.md"):
        page = path.relative_to(ROOT / "docs").with_suffix("")
        assert (site / (page.parent if page.name == "index" else page) / "index.html").is_file(), path


def test_the_site_loads_nothing_from_elsewhere(site):
    for page in site.rglob("*.html"):
        for tag in re.findall(r"<(?:script|link|img|iframe)\b[^>]*>", page.read_text(encoding="utf-8")):
            assert not re.search(r"""(?:src|href)=["']?(?:https?:)?//""", tag), f"{page}: {tag}"


def test_files_of_the_repository_that_pages_link_to_are_in_the_site(site):
    page = (site / "explanation" / "performance" / "index.html").read_text(encoding="utf-8")
    assert 'href="../../repository/benchmarks/RESULTS/#data-loading"' in page
    assert (site / "repository" / "benchmarks" / "RESULTS" / "index.html").is_file()
    assert (site / "repository" / "dino_detr" / "recipes" / "finetune.yaml").is_file()


def test_public_names_come_with_their_docstrings(site):
    page = (site / "reference" / "python_api" / "index.html").read_text(encoding="utf-8")
    text = re.sub(r"<[^>]+>", "", page)
    assert "Upload a run, or one of its checkpoints" in text and "load_for_fine_tuning" in text


@pytest.mark.parametrize("name", GENERATED)
def test_generated_pages_are_as_the_code_has_them(name):
    committed = (ROOT / "docs" / name).read_text(encoding="utf-8")
    assert committed == GENERATED[name](), "run: python docs/make_reference.py"
