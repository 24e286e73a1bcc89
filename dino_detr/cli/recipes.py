"""`dino-detr recipes`: what can be trained as it is."""

import argparse
import sys
import textwrap


def add_parser(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    verb = verbs.add_parser("recipes", help="the recipes that come with the package; one of them printed")
    verb.set_defaults(run=run)
    verb.add_argument("name", metavar="NAME", nargs="?", help="the one to print: `recipes finetune > mine.yaml`")


def run(options: argparse.Namespace) -> None:
    from ..recipes import find_recipe, list_recipes

    if options.name:
        sys.stdout.write(find_recipe(options.name).read_text(encoding="utf-8"))
        return
    recipes = list_recipes()
    width = max(map(len, recipes)) + 2
    for name, comment in recipes.items():
        print("\n".join(textwrap.wrap(f"{name:<{width}}{comment}", 116, subsequent_indent=" " * width)))
    print(
        "\nTrain one: dino-detr train NAME --dataset path/to/folder    Change one: dino-detr recipes NAME > mine.yaml"
    )
