"""The images and boxes of rows as shards: parquet files, or the tar files of a WebDataset."""

import io
import json
import tarfile
from pathlib import Path

from datasets import Dataset, Image

from dino_detr.data import class_names


def write_parquet(rows: Dataset, folder: Path, split: str, count: int) -> None:
    """Files of equal numbers of rows, with the image files' bytes in them."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        rows.shard(count, index, contiguous=True).to_parquet(folder / f"{split}-{index:05}-of-{count:05}.parquet")


def write_tars(rows: Dataset, folder: Path, split: str, count: int) -> None:
    """Samples `<key>.png` and `<key>.json`, with names as categories."""
    folder.mkdir(parents=True, exist_ok=True)
    names = class_names(rows)
    encoded = rows.cast_column("image", Image(decode=False))
    for index in range(count):
        with tarfile.open(folder / f"{split}-{index:05}.tar", "w") as file:
            for row in encoded.shard(count, index, contiguous=True):
                image = row.pop("image")
                row["objects"]["category"] = [names[label] for label in row["objects"]["category"]]
                content = image["bytes"] or Path(image["path"]).read_bytes()
                for suffix, some in (("png", content), ("json", json.dumps(row).encode())):
                    member = tarfile.TarInfo(f"{split}{row['image_id']:06}.{suffix}")
                    member.size = len(some)
                    file.addfile(member, io.BytesIO(some))
