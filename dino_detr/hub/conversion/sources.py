"""Where a checkpoint to convert comes from: a file, a repository of the Hub, or the table of published ones."""

import http.client
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.request import urlopen

from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import HFValidationError, RemoteEntryNotFoundError, RepositoryNotFoundError
from huggingface_hub.utils import tqdm

from ...data.image_files import cache_folder
from ...published_checkpoints import PublishedCheckpoint, find_near, read_published
from ...runs.names import partial_path

_HUB, _HUGGING_FACE = "hf://", "https://huggingface.co"
_WEIGHTS = (".pth", ".pt", ".bin", ".ckpt", ".safetensors")
_TIMEOUT = 30  # seconds without a byte


class Source(NamedTuple):
    """
    A checkpoint to convert, on this machine.

    Args:
        path: the file.
        name: what a reader calls it, without folders of this machine.
        url: where others find it, if it is known.
        published: what its authors say of it, if it is of the table.
    """

    path: Path
    name: str
    url: str | None = None
    published: PublishedCheckpoint | None = None


def find_source(text: str) -> Source:
    """
    Find a checkpoint, and download it if it is elsewhere and was not downloaded before.

    Args:
        text: a file, `hf://owner/repository` or `hf://owner/repository/path/in/it`, or a name of `read_published`.

    Raises:
        FileNotFoundError: if there is no such thing, with names that may be meant, or it has to be fetched by hand.
        ValueError: if the repository has no weights file, or several.
        ConnectionError: if it cannot be downloaded, with what to do instead.
    """
    if text.startswith(_HUB):
        return _from_hub(text)
    if (published := read_published().get(text)) is not None:
        return _from_table(published)
    path = Path(text)
    if path.is_file():
        return Source(path, path.name)
    if path.is_dir():
        raise IsADirectoryError(f"{text} is a folder; name the file of weights in it")
    near = find_near(text)
    raise FileNotFoundError(
        f"no checkpoint {text}: there is no such file, and no such name in `dino-detr convert --list`"
        + (f"; did you mean {' or '.join(near)}?" if near else "")
    )


def _from_table(published: PublishedCheckpoint) -> Source:
    if published.place.startswith(_HUB):
        return _from_hub(published.place)._replace(name=published.name, published=published)
    path = cache_folder() / "checkpoints" / f"{published.name}.pth"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        then = f"save it as {path}, and run the same command again"
        if published.code.by_hand:
            raise FileNotFoundError(
                f"{published.name} has to be fetched by hand: take its file from {published.place}, {then}"
            )
        try:
            _download(published.place, path)
        except (OSError, http.client.HTTPException) as error:
            raise ConnectionError(
                f"{published.place} cannot be downloaded ({error}): fetch it by other means, {then}"
            ) from error
    return Source(path, published.name, published.place, published)


def _download(url: str, path: Path) -> None:
    """Download a file with a progress bar. It has its name when it is whole, and nothing else is left."""
    partial = partial_path(path)
    try:
        with urlopen(url, timeout=_TIMEOUT) as answer:
            size = int(answer.headers.get("Content-Length") or 0)
            progress = tqdm.wrapattr(answer, "read", total=size or None, desc=path.name, miniters=1)
            with progress as content, open(partial, "wb") as file:
                shutil.copyfileobj(content, file)
        received = partial.stat().st_size
        if size and received != size:  # a connection that is cut ends as one that is done
            raise ConnectionError(f"it broke off after {received:,} of {size:,} bytes")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _from_hub(text: str) -> Source:
    owner, _, rest = text.removeprefix(_HUB).partition("/")
    repository, _, file = rest.partition("/")
    repo_id = f"{owner}/{repository}"
    if not owner or not repository:
        raise ValueError(f"{text}: write hf://owner/repository or hf://owner/repository/path/in/it")
    if not file:
        with _faults_in_a_line(text, repo_id):
            names = HfApi().list_repo_files(repo_id)
        weights = [f"{_HUB}{repo_id}/{name}" for name in names if name.endswith(_WEIGHTS)]
        if len(weights) != 1:
            found = f"{len(weights)} files of weights; choose one: {', '.join(weights[:5])}"
            raise ValueError(f"{text} has {found if weights else 'no file of weights: ' + ', '.join(_WEIGHTS)}")
        file = weights[0].removeprefix(f"{_HUB}{repo_id}/")
    with _faults_in_a_line(f"{_HUB}{repo_id}/{file}", repo_id):
        path = Path(hf_hub_download(repo_id, file))
    return Source(path, f"{_HUB}{repo_id}/{file}", f"{_HUGGING_FACE}/{repo_id}")


@contextmanager
def _faults_in_a_line(text: str, repo_id: str) -> Iterator[None]:
    try:
        yield
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise FileNotFoundError(f"{text}: there is no repository {repo_id} that you may read") from error
    except RemoteEntryNotFoundError as error:
        raise FileNotFoundError(f"{text}: there is no such file in {repo_id}") from error
    except Exception as error:  # of several libraries, as many kinds of error
        cause = " ".join(str(error.__cause__ or error).split())
        raise ConnectionError(
            f"{text} cannot be fetched ({cause}): fetch it by other means from {_HUGGING_FACE}/{repo_id}, and run "
            "`dino-detr convert` on the file"
        ) from error
