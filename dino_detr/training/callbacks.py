"""What a run does at the Trainer's events and has no file of its own for."""

from pathlib import Path
from typing import Any

from transformers import EarlyStoppingCallback, TrainerCallback, TrainerControl, TrainerState

from .checkpointing.state import find_best


class FindBest(TrainerCallback):
    """Looks where the best checkpoint of a run that goes on is."""

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        find_best(state, Path(args.output_dir))


class EarlyStopping(EarlyStoppingCallback):
    """transformers' own, which in a resumed run goes on counting, with the patience that is asked for now."""

    def restore(self, state: TrainerState) -> None:
        notes: Any = state.stateful_callbacks
        saved = notes.get(type(self).__name__)
        if saved is not None:
            self.early_stopping_patience_counter = saved["attributes"]["early_stopping_patience_counter"]

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        super().on_train_begin(args, state, control, **kwargs)
        self.restore(state)

    @property
    def exhausted(self) -> bool:
        """Whether the last evaluation was one too many."""
        return self.early_stopping_patience_counter >= self.early_stopping_patience
