"""How many steps a run has: what its options say or, where they say nothing, what its number of images suggests."""

import math

from .options import DinoDetrTrainingArguments

# Images drawn in all, over the square root of how many there are: 2,000 images are seen 50 times, 50,000 ten times.
_DRAWS_PER_ROOT = 2240
_LEAST_STEPS, _MOST_STEPS = 1_000, 30_000


def settle_run_length(options: DinoDetrTrainingArguments, num_images: int, epoch_length: int) -> int:
    """
    Return the steps of the run. Where neither `max_steps` nor `num_train_epochs` was said, they are chosen and set.

    Args:
        num_images: to train on.
        epoch_length: images that an epoch draws.
    """
    if options.max_steps > 0:
        return options.max_steps
    if "num_train_epochs" in options.given:
        whole, part = divmod(epoch_length, options.total_batch_size)
        an_epoch = max(whole + (part > 0 and not options.dataloader_drop_last), 1)
        return math.ceil(an_epoch * options.num_train_epochs)
    options.max_steps = options.recipe["max_steps"] = choose_steps(num_images, options.total_batch_size)
    options.steps_chosen = True
    return options.max_steps


def choose_steps(num_images: int, batch_size: int) -> int:
    """
    Return a number of steps that suits a detector that learns from `num_images` images.

    The draws grow with the square root of the number of images: few are seen often, many less often. There are 1,000
    steps at least, in which a new detector learns anything at all, and 30,000 at most.
    """
    steps = round(_DRAWS_PER_ROOT * math.sqrt(num_images) / batch_size, -1)
    return int(min(max(steps, _LEAST_STEPS), _MOST_STEPS))
