"""How the model meets the Hub: foreign checkpoints converted, cards written, runs uploaded."""

from .cards import write_card
from .conversion import load_reference_checkpoint
from .conversion.folder import convert_checkpoint
from .push import push_run
from .spaces import is_space, push_space

__all__ = ["convert_checkpoint", "is_space", "load_reference_checkpoint", "push_run", "push_space", "write_card"]
