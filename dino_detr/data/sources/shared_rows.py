"""Rows that workers and processes share."""

import hashlib
import itertools
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pyarrow as pa
from datasets import Dataset, config
from transformers.utils import logging

logger = logging.get_logger(__name__)

SMALLEST_FILE = 2**24  # bytes; a copy of less, in each process, does not matter
ROWS_TOGETHER = 1000  # of a batch
_END_OF_STREAM = pa.py_buffer(b"\xff\xff\xff\xff\x00\x00\x00\x00")  # of Arrow's format


def share_rows(table: pa.Table) -> Dataset:
    """Return the rows of a table as `share_batches` does, with `Features` in its schema (`features.arrow_schema`)."""
    return share_batches(lambda: table.to_batches(max_chunksize=ROWS_TOGETHER), table.schema)


def share_batches(batches: Callable[[], Iterable[pa.RecordBatch]], schema: pa.Schema) -> Dataset:
    """Return rows as read from a memory-mapped file, of which the machine holds one copy for all processes.

    The file is in the cache of `datasets`, under the hash of its content: whoever loads the same data finds the same
    file, a changed data set is another file, and one that was cut is written anew. Few rows stay in memory, and so do
    many if the cache cannot be written to, which is said once.

    Args:
        batches: makes the rows, of which only a batch is in memory while they are written.
        schema: of the rows, with `Features` (`features.arrow_schema`).
    """
    messages, first, size = _serialize(batches(), schema), [], 0
    for message in messages:
        first.append(message)
        size += message.size
        if size >= SMALLEST_FILE:
            break
    else:
        return Dataset.from_buffer(pa.py_buffer(b"".join(first)))
    folder = Path(config.HF_DATASETS_CACHE) / "dino_detr"
    try:
        return Dataset.from_file(str(_write(itertools.chain(first, messages), folder)))
    except OSError as error:
        logger.warning_once(f"{folder} cannot be written to, so each process holds its own rows: {error}")
        return Dataset.from_buffer(pa.py_buffer(b"".join(_serialize(batches(), schema))))


def _serialize(batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> Iterator[pa.Buffer]:
    """Return the parts of Arrow's stream format."""
    yield schema.serialize()
    for batch in batches:
        yield batch.serialize()
    yield _END_OF_STREAM


def _write(content: Iterable[pa.Buffer], folder: Path) -> Path:
    """Write a file, named by what is in it, that is there as a whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    digest, size = hashlib.sha256(), 0
    with tempfile.NamedTemporaryFile(dir=folder, suffix=".unfinished", delete=False) as file:
        try:
            for part in content:
                digest.update(part)
                size += file.write(part)
            path = folder / f"{digest.hexdigest()[:32]}.arrow"
            if path.exists() and path.stat().st_size == size:  # else a full disk or a crash may have cut it
                os.unlink(file.name)
                return path
            file.flush()
            os.fsync(file.fileno())
        except BaseException:
            os.unlink(file.name)
            raise
    os.replace(file.name, path)
    return path
