"""Our parameters under the names of our files, and our files under the names of the code they come from."""

import re
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file

from dino_detr.hub.conversion.names import _as_pattern, name_pairs


def names_of_parameters(model) -> dict[str, torch.nn.Parameter]:
    """Parameters by the names that this version of transformers gives them in a file, which may be others in memory."""
    marked = type(model)(model.config)
    parameters = list(model.parameters())
    with torch.no_grad():
        for number, parameter in enumerate(marked.parameters(), start=1):
            parameter.fill_(number)
    with tempfile.TemporaryDirectory() as folder:
        marked.save_pretrained(folder)
        saved = load_file(Path(folder) / "model.safetensors")
    named = {}
    for name, tensor in saved.items():
        number = int(tensor.flatten()[0].item())
        if tensor.is_floating_point() and 1 <= number <= len(parameters) and "running_" not in name:
            named[name] = parameters[number - 1]
    return named


def original_names(weights: dict[str, torch.Tensor], config, starts: str) -> dict[str, torch.Tensor]:
    """
    The inverse of `convert_state_dict`, for what it does not leave out.

    Args:
        starts: a pattern of the original's names: a place of ours stands in the files of several programs.
    """
    restored = {}
    for theirs, ours in name_pairs(config):
        targets = [ours] if isinstance(ours, str) else list(ours)
        pattern = re.compile(_as_pattern(f"model.{targets[0]}"))
        for name in weights:
            if match := pattern.fullmatch(name):
                values = match.groupdict()
                parts = [weights[f"model.{target.format(**values)}"] for target in targets]
                original = theirs.format(**values)
                if re.match(starts, original):
                    restored[original] = torch.cat(parts) if len(parts) > 1 else parts[0]
    return restored
