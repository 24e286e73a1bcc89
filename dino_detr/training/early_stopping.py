"""Stopping when evaluations no longer get better."""

from transformers import EarlyStoppingCallback, TrainerState


class EarlyStopping(EarlyStoppingCallback):
    """transformers' own; in a resumed run it goes on counting, with the patience that is asked for now."""

    def restore(self, state: TrainerState) -> None:
        saved = state.stateful_callbacks.get(type(self).__name__)
        if saved is not None:
            self.early_stopping_patience_counter = saved["attributes"]["early_stopping_patience_counter"]

    def on_train_begin(self, args, state, control, **kwargs):
        super().on_train_begin(args, state, control, **kwargs)
        self.restore(state)

    @property
    def exhausted(self) -> bool:
        """Whether the last evaluation was one too many."""
        return self.early_stopping_patience_counter >= self.early_stopping_patience
