"""The page in a real browser: pictures are dropped, boxes seen, the threshold moved, the detections downloaded."""

import json
import shutil
import socket

import pytest
from helpers.detecting import save_detector, save_photos

from dino_detr import Detector
from dino_detr.cli import main
from dino_detr.demo import build_page

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_detector(tmp_path_factory.mktemp("detector"))


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return save_photos(tmp_path_factory.mktemp("photos"))


@pytest.fixture
def page(checkpoint):
    """Two detectors side by side, served on loopback, and a window in which they are seen, with its errors."""
    pytest.importorskip("gradio")
    playwright = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("there is no Chromium")
    blocks = build_page([str(checkpoint), str(checkpoint)], "cpu")
    _, address, _ = blocks.launch(server_name="127.0.0.1", prevent_thread_lock=True, quiet=True)
    errors = []
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        window = browser.new_page(viewport={"width": 1280, "height": 900})
        window.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        window.on("pageerror", lambda error: errors.append(str(error)))
        window.goto(address)
        window.errors = errors
        yield window
        browser.close()
    blocks.close()


def counts(window, number: int) -> list[int]:
    """What both columns say, once they say this number."""
    window.wait_for_function(
        "number => [...document.body.innerText.matchAll(/: (\\d+) objects?, /g)]"
        ".filter(found => found[1] == number).length == 2",
        arg=number, timeout=30_000,
    )  # fmt: skip
    return window.evaluate("[...document.body.innerText.matchAll(/: (\\d+) objects?, /g)].map(found => +found[1])")


@pytest.mark.slow
def test_pictures_are_dropped_and_looked_at(page, checkpoint, photos, tmp_path):
    files = [str(photos / "0.png"), str(photos / "1.png")]
    detector = Detector(checkpoint, "cpu")
    page.set_input_files("input[type=file]", files)
    found = detector(files, threshold=0.5)
    assert counts(page, sum(map(len, found))) == [sum(map(len, found))] * 2
    assert page.locator(".thumbnail-item img, .grid-container img").count() >= 4
    with page.expect_download() as download:
        page.get_by_text("Download as COCO results").first.click()
    download.value.save_as(tmp_path / "results.json")
    assert json.loads((tmp_path / "results.json").read_text()) == [
        row for each, name in zip(found, ("0.png", "1.png")) for row in each.to_coco(name)
    ]

    every = sum(map(len, detector(files, threshold=0.3)))
    assert every > sum(map(len, found))
    page.locator("#threshold input[type=number]").fill("0.3")
    page.locator("#threshold input[type=number]").press("Enter")
    counts(page, every)
    page.get_by_label("Classes (none: all)").click()
    page.get_by_role("option", name="cat").click()
    counts(page, sum(each.names.count("cat") for each in detector(files, threshold=0.3)))
    page.get_by_label("Side of a tile, pixels").fill("60")
    page.locator("#tiled input").check()
    in_tiles = detector(files, threshold=0.3, tiles=60)
    counts(page, sum(each.names.count("cat") for each in in_tiles))
    assert page.errors == []
    for width in (1280, 400):  # nothing is wider than the window
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.screenshot(path=tmp_path / f"{width}.png", full_page=True)


def test_what_cannot_be_shown_is_said(checkpoint, tmp_path, monkeypatch):
    pytest.importorskip("gradio")
    for arguments, said in [
        ([str(checkpoint)] * 3, "3 checkpoints: one, or two side by side"),
        ([str(tmp_path / "nowhere")], "no checkpoint folder"),
    ]:
        with pytest.raises(SystemExit, match=said):
            main(["demo", *arguments])
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(SystemExit, match="Cannot find empty port"):
            main(["demo", str(checkpoint), "--port", str(taken.getsockname()[1])])


def test_what_is_not_installed_is_said(checkpoint, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "gradio", None)
    with pytest.raises(SystemExit, match=r"the page needs gradio: pip install 'dino-detr\[demo\]'"):
        main(["demo", str(checkpoint)])
