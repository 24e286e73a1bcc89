"""Promise 14, by the route that users' large files take: hf_xet, in processes of its own, and a Hub that speaks Xet."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from helpers.fake_hub import TOKEN, FakeHub
from helpers.launching import ENVIRONMENT, RECIPE, ROOT
from PIL import Image
from safetensors.torch import save_file

from dino_detr import DinoDetrConfig, DinoDetrForObjectDetection

CLIENT = """
import sys
from dino_detr.hub import push_run

for line in sys.stdin:
    try:
        print(push_run(*line.split()), flush=True)
    except Exception as fault:
        print(f"{type(fault).__name__}: {fault}", flush=True)
"""
NUM_VALUES = 500_000  # of the weights: 2 MB, about 30 chunks


@pytest.fixture(scope="module")
def hub():
    with FakeHub() as hub:
        yield hub


@pytest.fixture(autouse=True)
def at_peace(hub):
    yield
    hub.down, hub.breaks_off = False, lambda path: False


@pytest.fixture(scope="module")
def environment(hub, tmp_path_factory):
    inherited = {name: value for name, value in ENVIRONMENT.items() if not name.startswith(("HF_", "HUGGINGFACE_"))}
    return inherited | {
        "HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path_factory.mktemp("hf")), "HF_TOKEN": TOKEN,
        "HF_XET_DATA_XORB_COMPRESSION_POLICY": "none",
        "HF_XET_CLIENT_RETRY_MAX_ATTEMPTS": "1", "HF_XET_CLIENT_RETRY_BASE_DELAY": "10ms",
    }  # fmt: skip


@pytest.fixture(scope="module")
def push(environment):
    """`push(folder, repository)` in another process: the address of the commit, or the error."""
    command = [sys.executable, "-c", CLIENT]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, env=environment, cwd=ROOT, text=True, **pipes) as client:

        def push(folder: Path, repository: str) -> str:
            client.stdin.write(f"{folder} {repository}\n")
            client.stdin.flush()
            return client.stdout.readline().strip()

        yield push
        client.stdin.close()
        assert client.wait(20) == 0  # whatever hf_xet has running


@pytest.fixture
def folder(tmp_path) -> Path:
    DinoDetrForObjectDetection(DinoDetrConfig(**RECIPE["model_config"])).save_pretrained(tmp_path)
    save_file({"a": torch.rand(NUM_VALUES)}, tmp_path / "model.safetensors")
    (tmp_path / "plots").mkdir()
    Image.effect_noise((200, 200), 50).save(tmp_path / "plots" / "loss.png")
    return tmp_path


def arrived(hub: FakeHub, folder: Path, repository: str) -> bool:
    """Whether the last commit holds the large files of this folder."""
    files = hub.repositories[repository].commits[-1].files
    names = ("model.safetensors", "plots/loss.png")
    return all(files.get(name) == (folder / name).read_bytes() for name in names)


def uploads(hub: FakeHub) -> list[str]:
    return [path for method, path in hub.requests if method == "PUT"]


def test_a_push_arrives_whole_and_sends_what_is_new(hub, push, folder):
    repository = "someone/whole"
    first = push(folder, repository)
    assert first == f"{hub.endpoint}/{repository}/commit/{hub.repositories[repository].commits[-1].oid}"
    assert arrived(hub, folder, repository)
    hub.requests.clear()
    assert push(folder, repository) == first
    assert uploads(hub) == [] and len(hub.repositories[repository].commits) == 2

    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[1_000_000:1_000_004] = b"\0\0\0\0"  # one value of a chunk in the middle
    (folder / "model.safetensors").write_bytes(weights)
    assert push(folder, repository) != first and arrived(hub, folder, repository)
    (sent,) = uploads(hub)
    assert 0 < sum(map(len, hub.xorbs[Path(sent).name])) < len(weights) / 4


@pytest.mark.parametrize("gone", [False, True])
@pytest.mark.parametrize("at", ["/xet-write-token/", "/xorbs/", "/v2/shards"])
def test_an_upload_that_breaks_off_is_said_plainly_and_goes_on(hub, push, folder, at, gone):
    repository = f"someone/broken-{len(hub.repositories)}"

    def breaks_off(path):
        hub.down = gone and at in path  # for good
        return at in path

    hub.breaks_off = breaks_off
    said = push(folder, repository)
    assert said.startswith(
        f"ConnectionError: {repository}: the Hub cannot be reached, or the upload broke off (ConnectionError: Network"
    )
    assert said.endswith("); pushing again goes on from there")
    assert len(hub.repositories[repository].commits) == 1  # nothing half done
    hub.down, hub.breaks_off = False, lambda path: False
    push(folder, repository)
    assert arrived(hub, folder, repository)


def training(recipe, folder, repository, environment, *options) -> subprocess.Popen:
    command = [
        sys.executable,
        "train.py",
        recipe,
        "--output_dir",
        folder,
        "--push_to_hub",
        "--hub_model_id",
        repository,
    ]
    command += ["--dataloader_num_workers", "1", *options]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "start_new_session": True}
    return subprocess.Popen([str(part) for part in command], env=environment, cwd=ROOT, text=True, **pipes)


def test_training_pushes_by_xet_in_the_background(hub, recipe, environment, tmp_path):
    """Data workers that are forked when hf_xet has run do their work, and the process ends."""
    folder, repository = tmp_path / "run", "someone/trained"
    with training(recipe, folder, repository, environment, "--max_steps", "6") as run:
        said, _ = run.communicate(timeout=60)
    assert run.returncode == 0, said
    commits = hub.repositories[repository].commits[1:]
    assert commits[0].message.startswith("Weights of step 2, AP") and len(commits) > 1
    assert commits[0].files["model.safetensors"] in hub.objects.values()
    assert commits[-1].files["model.safetensors"] == (folder / "model.safetensors").read_bytes()


@pytest.mark.parametrize("number, status", [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_a_signal_ends_training_during_an_upload(hub, recipe, environment, tmp_path, number, status):
    """At SIGTERM and at Ctrl-C with a checkpoint and our status, though hf_xet waits for a Hub that hangs."""
    folder, begun, over = tmp_path / "run", threading.Event(), threading.Event()

    def hangs(path):
        if "/xorbs/" in path:
            begun.set()
            over.wait(150)
        return False

    hub.breaks_off = hangs
    try:
        # of a seed of its own, or the Hub would have the same weights already
        options = ["--max_steps", "1000", "--seed", str(int(number))]
        # Python loses a Ctrl-C that comes while a worker is forked: none is between the first evaluation and the next
        options += ["--dataloader_persistent_workers", "true", "--eval_steps", "10", "--save_steps", "10"]
        with training(recipe, folder, f"someone/{number.name}", environment, *options) as run:
            if not begun.wait(60):
                run.kill()
                pytest.fail(run.communicate()[0])
            os.killpg(run.pid, number)  # data workers too, as terminals and schedulers do
            try:
                said, _ = run.communicate(timeout=120)
            finally:
                run.kill()
    finally:
        over.set()
    assert run.returncode == status, said
    assert "stopped by a signal at step" in said and "FATAL" not in said
    assert list(folder.glob("checkpoint-*"))
