"""
The `dino-detr` command.

It lies beside the package, not in it, because it is imported first: `dino_detr` sees that and does not import torch,
so that help, the version and a mistyped verb are answered at once.
"""


def main() -> None:
    from dino_detr.cli import main as run

    run()
