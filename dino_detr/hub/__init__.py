"""How the model meets the Hub: foreign checkpoints converted, cards written, runs uploaded."""

from .cards import write_card
from .conversion import load_reference_checkpoint
from .conversion.folder import convert_checkpoint
from .push import push_run

__all__ = ["convert_checkpoint", "load_reference_checkpoint", "push_run", "write_card"]
