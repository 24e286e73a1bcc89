"""A published checkpoint written as a checkpoint folder, with what is known of its source."""

import json
from pathlib import Path

from ...runs.names import SOURCE_JSON
from ..cards import write_card
from . import Converted, convert_file
from .sources import find_source


def convert_checkpoint(source: str, folder: str | Path, reference_config: str | Path | None = None) -> Converted:
    """
    Convert a checkpoint to a folder that the Auto classes, `evaluate`, `predict`, `train` and `push` take.

    It holds configuration, weights, code, processor, a card, and `source.json`: where the weights come from and what
    their authors say of them, for later cards.

    Args:
        source: a file, `hf://owner/repository[/file]`, or a name of `dino-detr convert --list`.
        folder: where to write.
        reference_config: see `load_reference_checkpoint`.

    Raises:
        FileNotFoundError, ValueError, ConnectionError: see `find_source` and `load_reference_checkpoint`. Nothing was
            written then.
    """
    found = find_source(source)
    converted = convert_file(found.path, reference_config)
    folder = Path(folder)
    converted.model.save_pretrained(folder)
    converted.processor.save_pretrained(folder)
    published = found.published
    record = {
        "source": found.name,
        "url": found.url,
        "code": published.code.name if published else converted.code,
        "epochs": published.epochs if published else None,
        "published_box_ap": published.box_ap if published else None,
        "is_average": converted.is_average,
    }
    (folder / SOURCE_JSON).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    write_card(folder)
    return converted
