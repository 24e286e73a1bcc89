"""Rows that workers and processes share."""

import hashlib
import os
import tempfile
from pathlib import Path

import pyarrow as pa
from datasets import Dataset, config
from transformers.utils import logging

logger = logging.get_logger(__name__)

SMALLEST_FILE = 2**24  # bytes; a copy of less, in each process, does not matter


def share_rows(table: pa.Table) -> Dataset:
    """Return the rows as read from a memory-mapped file, of which the machine holds one copy for all processes.

    The file is in the cache of `datasets`, under the hash of its content: whoever loads the same data finds the same
    file, a changed data set is another file, and one that was cut is written anew. Small tables stay in memory, and so
    do large ones if the cache cannot be written to, which is said once.

    Args:
        table: with `Features` in its schema (`features.arrow_schema`).
    """
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=1000)
    content = sink.getvalue()
    if content.size < SMALLEST_FILE:
        return Dataset.from_buffer(content)
    path = Path(config.HF_DATASETS_CACHE) / "dino_detr" / f"{hashlib.sha256(content).hexdigest()[:32]}.arrow"
    try:
        if not path.exists() or path.stat().st_size != content.size:  # a full disk or a crash may have cut it
            _write(content, path)
    except OSError as error:
        logger.warning_once(f"{path.parent} cannot be written to, so each process holds its own rows: {error}")
        return Dataset.from_buffer(content)
    return Dataset.from_file(str(path))


def _write(content: pa.Buffer, path: Path) -> None:
    """Write a file that is there as a whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".unfinished", delete=False) as file:
        try:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        except OSError:
            os.unlink(file.name)
            raise
    os.replace(file.name, path)
