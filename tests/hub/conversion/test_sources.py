"""A source is found where it is, fetched once, and where it cannot be fetched the reader is told what to do."""

import os
import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from helpers.fake_hub import Repository
from huggingface_hub import constants

from dino_detr.hub.conversion import sources
from dino_detr.hub.conversion.sources import find_source
from dino_detr.published_checkpoints import read_published

NAME = "detrex-r50-4scale-12ep"


@pytest.fixture
def cache(monkeypatch, tmp_path) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "cache" / "dino-detr" / "checkpoints"


@pytest.fixture
def serve(monkeypatch):
    """Start a server with a handler of requests, or stop it at once; the published checkpoints lie there then."""
    servers = []

    def start(handler):
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler or BaseHTTPRequestHandler)
        if handler is None:
            server.server_close()
        else:
            servers.append(server)
            threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/weights.pth"
        table = {name: each._replace(place=address) for name, each in read_published().items()}
        monkeypatch.setattr(sources, "read_published", lambda: table)
        return address

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_a_file_is_itself(tmp_path, cache):
    (tmp_path / "weights.pth").write_bytes(b"x")
    found = find_source(str(tmp_path / "weights.pth"))
    assert (found.path, found.name) == (tmp_path / "weights.pth", "weights.pth")  # without folders of this machine
    assert found.url is None and found.published is None
    with pytest.raises(IsADirectoryError, match="name the file"):
        find_source(str(tmp_path))


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("detrex-r50-4scale-12e", NAME),
        ("Detrex-R50-4scale-12ep", NAME),
        ("idea-swin", "idea-swin-large-384-4scale-12ep"),
    ],
)
def test_a_mistyped_name_is_answered_with_near_ones(typed, meant, cache):
    with pytest.raises(FileNotFoundError, match=rf"no checkpoint {typed}: .*did you mean .*{meant}"):
        find_source(typed)
    with pytest.raises(FileNotFoundError, match=r"no such name in `dino-detr convert --list`$"):
        find_source("somewhere/else.pth")


def test_a_name_is_downloaded_once(tmp_path, cache, serve, capsys):
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "weights.pth").write_bytes(os.urandom(300_000))
    requests = []

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            requests.append(self.path)

    address = serve(partial(Handler, directory=tmp_path / "served"))
    found = find_source(NAME)
    assert found.path.read_bytes() == (tmp_path / "served" / "weights.pth").read_bytes()
    assert found.name == NAME and found.url == address and found.published.box_ap == 49.2
    assert "100%" in capsys.readouterr().err  # the progress bar
    assert find_source(NAME) == found and len(requests) == 1
    assert os.listdir(cache) == [f"{NAME}.pth"]


class BreaksOff(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "5000")
        self.end_headers()
        self.wfile.write(b"x" * 2000)

    def log_message(self, *_):
        pass


class Refuses(BreaksOff):
    def do_GET(self):
        self.send_error(403)


@pytest.mark.parametrize(
    ("handler", "said"),
    [(BreaksOff, "broke off after 2,000 of 5,000 bytes"), (Refuses, "403"), (None, "refused")],
    ids=["in the middle", "forbidden", "no network"],
)
def test_a_download_that_fails_says_what_to_do_and_leaves_nothing(handler, said, cache, serve):
    address = serve(handler)
    with pytest.raises(ConnectionError) as refusal:
        find_source(NAME)
    message = str(refusal.value)
    assert said in message and "\n" not in message
    assert message.startswith(f"{address} cannot be downloaded")
    assert message.endswith(f"save it as {cache / NAME}.pth, and run the same command again")
    assert os.listdir(cache) == []
    (cache / f"{NAME}.pth").write_bytes(b"fetched by hand")  # as it says
    assert find_source(NAME).path == cache / f"{NAME}.pth" and find_source(NAME).published.name == NAME


def test_what_only_a_browser_can_fetch_says_so(cache):
    name = "idea-r50-4scale-36ep"
    with pytest.raises(
        FileNotFoundError, match=r"by hand: .* from https://drive\.google\.com/\S+, save it as"
    ) as refusal:
        find_source(name)
    place = Path(str(refusal.value).partition("save it as ")[2].partition(", and")[0])
    place.write_bytes(b"saved")
    assert find_source(name).path == place and find_source(name).published.box_ap == 50.9


def test_a_repository_of_the_hub(hub, cache):
    files = {"README.md": b"hello", "deep/model_final.pth": b"weights", "config.json": b"{}"}
    hub.repositories["someone/detector"] = Repository(private=False)
    hub.repositories["someone/detector"].commit("weights", files)
    for text in ("hf://someone/detector", "hf://someone/detector/deep/model_final.pth"):
        found = find_source(text)
        assert found.path.read_bytes() == b"weights"
        assert found.name == "hf://someone/detector/deep/model_final.pth"
        assert found.url == "https://huggingface.co/someone/detector"

    hub.repositories["someone/detector"].commit("more", files | {"best.pth": b"other"})
    with pytest.raises(
        ValueError, match=r"2 files of weights; choose one: hf://someone/detector/deep/model_final\.pth, "
    ):
        find_source("hf://someone/detector")
    hub.repositories["someone/detector"].commit("none", {"README.md": b"hello"})
    with pytest.raises(ValueError, match="no file of weights"):
        find_source("hf://someone/detector")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("hf://someone/nothing", "no repository someone/nothing that you may read"),
        ("hf://someone/detector/missing.pth", "no such file in someone/detector"),
        ("hf://someone", "write hf://owner/repository"),
        ("hf://some one/a b", "no repository"),
    ],
)
def test_what_is_not_on_the_hub_is_told_in_a_line(text, said, hub, cache):
    hub.repositories["someone/detector"] = Repository(private=False)
    hub.repositories["someone/detector"].commit("weights", {"a.pth": b"weights"})
    with pytest.raises((FileNotFoundError, ValueError), match=said) as refusal:
        find_source(text)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("text", ["hf://someone/detector", "hf://someone/detector/a.pth", "edge-dinov2-base-12ep"])
def test_a_hub_that_cannot_be_reached_says_where_the_file_is(text, hub, cache, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda _: None)  # between huggingface_hub's own tries
    hub.down = True
    with pytest.raises(
        ConnectionError, match=r"cannot be fetched .*from https://huggingface\.co/\S+, and run"
    ) as refusal:
        find_source(text)
    assert "\n" not in str(refusal.value)
