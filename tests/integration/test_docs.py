"""What the documents tell a reader to type works: their commands, their Python, their options, names and links."""

import argparse
import json
import pydoc
import re
import runpy
import shlex
import shutil
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import yaml
from accelerate.commands.launch import launch_command_parser
from helpers import fake_hub
from helpers.launching import ENVIRONMENT, RECIPE, ROOT, run
from helpers.newcomer import make_folder

from dino_detr import cli
from dino_detr.data import load_detection_dataset
from dino_detr.data.sources.digits import NUM_SCENES
from dino_detr.recipes import find_recipe
from dino_detr.training import DinoDetrTrainingArguments, description, parse_options, prepare

DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
DOCUMENTS += [
    ROOT / "benchmarks" / "README.md",
    *(ROOT / "hub_cards" / f"{name}.md" for name in ("quickstart", "bccd")),
]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
TEXTS = {str(path.relative_to(ROOT)): path.read_text() for path in [*DOCUMENTS, *EXAMPLES]}

# What a command of training is given beside its own options, to be over in seconds.
SMALL = {
    "max_steps": 2, "total_batch_size": 2, "image_sizes": 64, "max_image_size": 96, "num_queries": 20,
    "num_denoising": 8, "dataloader_num_workers": 0, "bf16": "false", "use_cpu": "true", "eval_strategy": "no",
    "load_best_model_at_end": "false",
}  # fmt: skip
SMALL_DETECTOR = {name: value for name, value in RECIPE["model_config"].items() if name != "backbone_config"}

OF_THE_REFERENCE = {"--config-file", "--num-gpus", "--resume", "--eval-only"}  # its commands stand beside ours
OF_SLURM = {"--nodes"}
VERBS = next(a for a in cli.build_parser()._actions if isinstance(a, argparse._SubParsersAction)).choices


def blocks(language: str) -> list[tuple[str, str]]:
    """(document, content) of each fenced block of a language."""
    fence = re.compile(rf"^```{language}\n(.*?)^```", flags=re.M | re.S)
    return [(name, block) for name, text in TEXTS.items() for block in fence.findall(text)]


def commands() -> list[tuple[str, str]]:
    """(document, command) of the bash blocks and of what the examples say of themselves; what is optional left out."""
    texts = blocks("bash") + [
        (name, "\n".join(re.findall(r"^    (python .*)", text, flags=re.M)))
        for name, text in TEXTS.items()
        if name.endswith(".py")
    ]
    found = []
    for name, text in texts:
        for line in text.replace("\\\n", " ").splitlines():
            words = shlex.split(re.sub(r"\[.*?\]", "", line), comments=True)
            if ">" in words:  # a redirection
                words = words[: words.index(">")]
            if words:
                found.append((name, shlex.join(words)))
    return list(dict.fromkeys(found))


COMMANDS = commands()
SLOW = ("dino-detr export",)  # a minute and more


@pytest.fixture(scope="module")
def newcomers_folder(tmp_path_factory, cache_folder) -> Path:
    home = tmp_path_factory.mktemp("newcomer") / "home"
    home.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        _shorten_digits(patch)
        make_folder(home)
    return home


@pytest.fixture
def home(newcomers_folder, tmp_path, monkeypatch) -> Path:
    """A copy of the folder, to be in."""
    folder = Path(shutil.copytree(newcomers_folder, tmp_path / "home", symlinks=True))
    monkeypatch.chdir(folder)
    _shorten_digits(monkeypatch)
    return folder


def _shorten_digits(patch) -> None:
    for split, count in (("train", 8), ("val", 5)):
        patch.setitem(NUM_SCENES, split, count)


def small(arguments: list[str]) -> list[str]:
    """Of `RECIPE [--option value ...]`, for seconds on a CPU."""
    options = [part for name, value in SMALL.items() for part in (f"--{name}", str(value))]
    if "backbone" in yaml.safe_load(find_recipe(arguments[0]).read_text()) and "--model" not in arguments:
        options += ["--model_config", json.dumps(SMALL_DETECTOR)]
    return [*arguments, *options]


def parse_new_run(arguments: list[str]):
    """Its options. What lies in its folder for the commands that come after it makes way."""
    options = parse_options(arguments)
    if Path(options.output_dir).is_symlink():
        Path(options.output_dir).unlink()
    return options


def try_command(words: list[str], monkeypatch) -> None:
    """Run it here, or, where it needs a cluster, a network or hours, look at everything before that."""
    match words:
        case ["make", target]:
            assert re.search(rf"^{target}:", Path("Makefile").read_text(), flags=re.M)
        case ["pip", "install", "." | ".[export]"]:
            assert Path("pyproject.toml").is_file()
        case ["pip", "install", "dino-detr"]:  # with an extra, which `test_names_in_the_text` looks for
            assert 'name = "dino-detr"' in Path("pyproject.toml").read_text()
        case ["hf", *arguments]:
            run(sys.executable, "-m", "huggingface_hub.cli.hf", *arguments, "--help")
        case ["sbatch", script, *arguments]:
            assert Path(script).is_file()
            if arguments:
                parse_options(small(arguments))
        case ["accelerate", "launch", "-m", "dino_detr.cli", "train", *arguments]:
            prepare(parse_new_run(small(arguments)))
        case ["accelerate", "launch", *arguments]:
            launch = launch_command_parser().parse_args(arguments)
            assert launch.training_script == "train.py" and Path(launch.config_file or "train.py").is_file()
            prepare(parse_new_run(small(launch.training_script_args)))
        case ["dino-detr", "train", *arguments] | ["python", "train.py", *arguments]:
            parse_new_run(small(arguments))
            cli.main(["train", *small(arguments)])
        case ["dino-detr", "convert", "--list"]:
            with pytest.raises(SystemExit, match=r"^0$"):
                cli.main(words[1:])
        case ["dino-detr", "convert", *arguments]:
            output = arguments[arguments.index("--output") + 1]
            shutil.rmtree(output, ignore_errors=True)  # what lies there for the commands after it
            cli.main(words[1:])
        case ["dino-detr", "benchmark" | "replay" | "demo", *_]:  # tests of their own run these
            cli.build_parser().parse_args(words[1:])
        case ["dino-detr", *arguments]:
            cli.main(arguments)
        case ["python", "examples/finetune.py" as script, dataset, output_dir]:
            arguments = small(["recipes/finetune.yaml"])
            parse_new_run([*arguments, "--dataset", dataset, "--output_dir", output_dir])
            run_script(script, [dataset, output_dir, *arguments[1:]], monkeypatch)
        case ["python", script, *arguments] if script.startswith("examples/"):
            run_script(script, arguments, monkeypatch)
        case _:
            pytest.fail(f"test_docs.py does not know how to try: {shlex.join(words)}")


def run_script(script: str, arguments: list[str], monkeypatch) -> None:
    monkeypatch.setattr(sys, "argv", [script, *arguments])
    runpy.run_path(script, run_name="__main__")


@pytest.mark.parametrize(
    ("document", "command"),
    [
        pytest.param(*pair, id=": ".join(pair)[:100], marks=[pytest.mark.slow] * pair[1].startswith(SLOW))
        for pair in COMMANDS
    ],
)
def test_commands(document, command, home, hub, monkeypatch):
    monkeypatch.setattr(fake_hub, "NAMESPACE", "you")
    for name in ("write_report", "draw_sample_detections"):  # half of a small run's time; test_training.py sees them
        monkeypatch.setattr(description, name, lambda *_: None)
    try_command([word.replace("~", str(home)) for word in shlex.split(command)], monkeypatch)


def test_the_first_launch_in_processes_of_its_own(home):
    command = next(words for _, words in COMMANDS if words.startswith("accelerate launch") and " train.py " in words)
    words = shlex.split(command.partition(" train.py ")[2].replace("~", str(home)))
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1"]
    run(*launcher, "train.py", *small(words), "--output_dir", "runs/launched", cwd=home)
    assert (home / "runs" / "launched" / "model.safetensors").is_file()


RUN_BLOCKS = """
import json, sys
for number, (name, block) in enumerate(json.load(open(sys.argv[1]))):
    print("block", number, "of", name, flush=True)
    exec(compile(block, name, "exec"), {"__name__": "__main__"})
"""


def test_python_blocks(home, monkeypatch):
    """In one process, with a cache of its own, for code from checkpoints goes there."""
    (home / "blocks.json").write_text(json.dumps(blocks("python")))
    monkeypatch.setitem(ENVIRONMENT, "HF_HOME", str(home / "hf"))
    output = run(sys.executable, "-c", RUN_BLOCKS, "blocks.json", cwd=home)
    assert output.count("block ") >= len(blocks("python")) >= 5
    converted = load_detection_dataset(str(home / "converted"), "train")  # as the text after it says
    assert converted[0]["objects"]["bbox"] == [[1, 2, 10, 20]]


def prose(name: str) -> str:
    return re.sub(r"^```.*?^```", "", TEXTS[name], flags=re.M | re.S)


def options_of(parser: argparse.ArgumentParser) -> set[str]:
    return set(parser._option_string_actions)


TRAINING = {"--help", *(f"--{f.name}" for f in fields(DinoDetrTrainingArguments) if f.init)}
OPTIONS = {verb: options_of(parser) for verb, parser in VERBS.items()} | {"train": TRAINING}


@pytest.mark.parametrize("name", TEXTS)
def test_names_in_the_text(name):
    """Verbs, options and Python names in `code`, options in the first column of tables of them."""
    known = set.union(*OPTIONS.values()) | options_of(launch_command_parser()) | OF_THE_REFERENCE | OF_SLURM
    for extra in re.findall(r"dino-detr\[(\w+)\]", TEXTS[name]):
        assert f"\n{extra} = [" in (ROOT / "pyproject.toml").read_text(), f"{name}: {extra}"
    for code in re.findall(r"`([^`\n]+)`", prose(name)):
        options = set(re.findall(r"(?<!\S)--[a-zA-Z][\w-]*", code))
        assert options <= known, f"{name}: {code}"
        if verb := re.match(r"dino-detr ([\w-]+)", code):
            assert verb[1] in OPTIONS and options <= OPTIONS[verb[1]], f"{name}: {code}"
        if path := re.fullmatch(r"(dino_detr(?:\.\w+)+)(\(.*\))?", code):
            assert pydoc.locate(path[1]) is not None, f"{name}: {code}"
    for table in re.findall(r"^\| option \|.*\n\|[-|]+\|\n((?:\|.*\n)+)", prose(name), flags=re.M):
        for row in table.splitlines():
            for option in re.findall(r"`(?:--)?([a-z]\w*)", row.split("|")[1]):
                assert f"--{option}" in known, f"{name}: {option}"


def test_the_first_tutorial_asks_for_little():
    tutorial = TEXTS["docs/tutorials/first_detector.md"]
    assert set(re.findall(r"--\w+", tutorial)) == {"--output_dir"}
    assert tutorial.count("](../images/") <= 3 and len(tutorial.split()) <= 400


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links(path):
    """Of files here, and of their headings."""
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(str(path.relative_to(ROOT)))):
        if link.startswith("http"):
            continue
        file, _, anchor = link.partition("#")
        target = path.parent / file if file else path
        assert target.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.*)", target.read_text(), flags=re.M)
            anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in anchors, link
