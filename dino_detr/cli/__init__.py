"""The `dino-detr` command: one file a verb, which imports what it needs when it runs."""

from .main import build_parser, main

__all__ = ["build_parser", "main"]
