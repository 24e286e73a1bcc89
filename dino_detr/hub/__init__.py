from .conversion import load_reference_checkpoint

__all__ = ["load_reference_checkpoint"]
