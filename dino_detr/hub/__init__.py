"""How the model meets the Hub: foreign checkpoints converted, cards written."""

from .conversion import load_reference_checkpoint

__all__ = ["load_reference_checkpoint"]
