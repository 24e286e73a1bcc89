"""The recipes that come with the package: one file is one training run that can be reproduced."""

import difflib
import itertools
from pathlib import Path

FOLDER = Path(__file__).parent


def list_recipes() -> dict[str, str]:
    """Return the first sentence of each recipe, by the name that `find_recipe` takes."""
    paths = sorted([*FOLDER.glob("*.yaml"), *FOLDER.glob("accelerate/*.yaml")])
    names = [path.relative_to(FOLDER).with_suffix("").as_posix() for path in paths]
    return {name: _first_sentence(path) for name, path in zip(names, paths)}


def find_recipe(name: str) -> Path:
    """
    Return the file of a recipe.

    Args:
        name: a file, or the name of a recipe that comes with the package: `finetune`, `finetune.yaml` and
            `recipes/finetune.yaml` are the same.

    Raises:
        FileNotFoundError: if there is none, with the names there are.
        IsADirectoryError: if it is a folder.
    """
    path = Path(name)
    if path.is_file():
        return path
    plain = path.as_posix().removeprefix("recipes/").removesuffix(".yaml").removesuffix(".yml")
    known = list_recipes()
    if plain in known:
        return FOLDER / f"{plain}.yaml"
    if path.is_dir():
        raise IsADirectoryError(f"{name} is a folder, not a recipe")
    near = difflib.get_close_matches(plain, known, n=1)
    raise FileNotFoundError(
        f"no recipe {name}" + (f"; did you mean {near[0]}?" if near else "; `dino-detr recipes` lists those there are")
    )


def _first_sentence(path: Path) -> str:
    """Return the first sentence of the comment at a recipe's top."""
    comment = itertools.takewhile(lambda line: line.startswith("#"), path.read_text(encoding="utf-8").splitlines())
    return " ".join(line.removeprefix("#").strip() for line in comment).partition(". ")[0]
