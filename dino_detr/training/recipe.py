"""A recipe file and the command line, read and made one."""

import re
from pathlib import Path

import yaml

# Of two that exclude one another, the command line's replaces the recipe's.
EXCLUSIVE_OPTIONS = [
    ("model", "backbone"),
    ("lr_decay_steps", "lr_scheduler_type"),
    ("max_steps", "num_train_epochs"),
]


class _Loader(yaml.SafeLoader):
    """YAML whose numbers and truth values are those of YAML 1.2: `1e-4` is a number, `no` is text."""

    def construct_mapping(self, node, deep=False):
        seen = {}
        for key, _ in node.value:
            name = str(key.value)
            if name in seen and key.tag != "tag:yaml.org,2002:merge":
                raise yaml.YAMLError(f"{name} is given twice, in lines {seen[name]} and {key.start_mark.line + 1}")
            seen[name] = key.start_mark.line + 1
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("int", r"[-+]?[0-9]+", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", "-+.0123456789"),
    ("float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", "-+."),
    ("merge", r"<<", "<"),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), list(_first))
_Loader.add_constructor("tag:yaml.org,2002:int", lambda loader, node: int(node.value))


def read_recipe(path: Path) -> dict:
    """
    Return the options in a recipe file by name, as YAML has them.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is a folder, no text in UTF-8, no YAML, no mapping, or has a name twice; in one line.
    """
    if path.is_dir():
        raise ValueError(f"{path} is a folder, not a recipe")
    if not path.is_file():
        raise FileNotFoundError(f"no recipe {path}")
    try:
        values = yaml.load(path.read_text(encoding="utf-8-sig"), _Loader)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not text in UTF-8 (byte {error.start}): a recipe is a YAML file") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not YAML: {_in_one_line(error)}") from error
    values = {} if values is None else values
    if not isinstance(values, dict):
        raise ValueError(f"{path}: a recipe is a mapping of options to values")
    return values


def _in_one_line(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return " ".join(str(error).split())
    problem = " ".join(str(getattr(error, "problem", "")).split())
    return f"line {mark.line + 1}, column {mark.column + 1}: {problem}"


def read_command_line(arguments: list[str], known: set[str], switches: set[str]) -> dict:
    """
    Return the values of `--name value ...`, `--name=value`, `--name` and `--no_name` by name, as they were written.

    An option given twice has its last value.

    Args:
        known: all options.
        switches: those that are true or false, and true where no value follows.

    Raises:
        ValueError: for what is no option, and for an option without a value.
    """
    values, name = {}, None
    for argument in arguments:
        if argument.startswith("--"):
            name, equals, value = argument[2:].partition("=")
            name = name.replace("-", "_")
            values[name] = [value] if equals else []
        elif name is None or re.match(r"-[A-Za-z]", argument):
            raise ValueError(f"command line: {argument!r} is no option; they are written --name value")
        else:
            values[name].append(argument)
    return dict(_bare(name, written, known, switches) for name, written in values.items())


def _bare(name: str, written: list[str], known: set[str], switches: set[str]) -> tuple[str, str | bool | list[str]]:
    """An option's name and value; many words stay a list."""
    positive = name.removeprefix("no_")
    if name not in known and positive in switches and not written:
        return positive, False
    if not written and name in switches:
        return name, True
    if not written and name in known:
        raise ValueError(f"command line: {name} needs a value")
    return name, written[0] if len(written) == 1 else written


def merge(recipe: dict, command_line: dict) -> dict:
    """Return the options of both. The command line wins, also over what its options exclude."""
    merged = dict(recipe)
    for either, other in EXCLUSIVE_OPTIONS:
        if len({either, other} & command_line.keys()) == 1:
            merged.pop(either if other in command_line else other, None)
    if {"model", "backbone"} & command_line.keys() and isinstance(merged.get("model_config"), dict):
        merged["model_config"] = {k: v for k, v in merged["model_config"].items() if k != "backbone_config"}
    if "dataset" in command_line:  # the weights are those of other sources
        merged.pop("dataset_weights", None)
    return merged | command_line
