"""Images to detect in, wherever they are: files, folders, patterns, addresses, the standard input."""

import glob
import os
import re
import sys
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from urllib.error import URLError
from urllib.parse import quote, unquote
from urllib.request import Request, urlopen

from torch import Tensor

from .decoding import decode_rgb
from .image_files import IMAGE_SUFFIXES

_URL_TIMEOUT = 30  # seconds


@dataclass
class ImageSource:
    """
    An image to detect in, not yet read.

    Args:
        name: the file, URL or `-` that it comes from.
        content: its bytes, where they came from elsewhere than a file or URL.
    """

    name: str
    content: bytes | None = None

    @property
    def stem(self) -> str:
        """A file name without folder and suffix, for what is made of the image."""
        if self.name == "-":
            return "stdin"
        path = unquote(re.split(r"[?#]", self.name)[0]) if is_url(self.name) else self.name
        return Path(path).stem or "image"

    def read(self) -> Tensor:
        """
        Return its upright pixels, uint8 `[3, h, w]`.

        Raises:
            OSError: if it cannot be read, or is no image.
        """
        content = self.content
        if content is None and is_url(self.name):
            content = _download(self.name)
        return decode_rgb({"path": self.name, "bytes": content})


def find_images(arguments: list[str], leave_out: Path | None = None) -> list[ImageSource]:
    """
    Return the images that arguments name, each once.

    Args:
        arguments: files, folders (with the folders in them), patterns such as `photos/*.jpg`, URLs, and `-`: of the
            standard input, either one image or the names of images, one a line.
        leave_out: a folder whose files are none of them.

    Raises:
        FileNotFoundError: naming an argument for which there is no image.
    """
    sources: dict[str, ImageSource] = {}
    for argument in arguments:
        for source in _expand(argument, leave_out):
            is_file = not (is_url(source.name) or source.content)
            sources.setdefault(os.path.realpath(source.name) if is_file else source.name, source)
    return list(sources.values())


def is_url(name: str) -> bool:
    return name.lower().startswith(("http://", "https://"))


def _expand(argument: str, leave_out: Path | None) -> list[ImageSource]:
    if argument == "-":
        return _from_stdin(leave_out)
    if is_url(argument) or os.path.isfile(argument):
        return [ImageSource(argument)]
    if os.path.isdir(argument):
        files = _images_in(argument, leave_out)
        if not files:
            raise FileNotFoundError(f"no images in {argument}")
        return [ImageSource(file) for file in files]
    matches = sorted(glob.glob(argument, recursive=True)) if glob.has_magic(argument) else []
    if not matches:
        raise FileNotFoundError(f"no image {argument}")
    files = [file for match in matches for file in (_images_in(match, leave_out) if os.path.isdir(match) else [match])]
    return [ImageSource(file) for file in files]


def _from_stdin(leave_out: Path | None) -> list[ImageSource]:
    content = sys.stdin.buffer.read()
    try:
        names = [] if b"\0" in content else content.decode("utf-8").splitlines()
    except UnicodeDecodeError:
        names = []
    names = [name.strip() for name in names if name.strip()]
    if names:
        return [source for name in names if name != "-" for source in _expand(name, leave_out)]
    if not content.strip():
        raise FileNotFoundError("no image -: there is nothing on the standard input")
    return [ImageSource("-", content)]


def _images_in(folder: str, leave_out: Path | None) -> list[str]:
    """Return the image files of a folder and the folders in it, in the order of their paths, without hidden ones."""
    files = []
    seen = set() if leave_out is None else {os.path.realpath(leave_out)}
    for path, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(path)
        if real in seen:  # links may lead in circles
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if not name.startswith(".")]
        images = [name for name in names if os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES]
        files += [os.path.join(path, name) for name in images if not name.startswith(".")]
    return sorted(files)


def _download(url: str) -> bytes:
    try:
        quoted = quote(url, safe="%/:=&?~#+!$,;'@()*[]")  # spaces and letters with accents, as browsers do
        with urlopen(Request(quoted, headers={"User-Agent": "dino-detr"}), timeout=_URL_TIMEOUT) as response:
            return response.read()
    except (URLError, HTTPException, ValueError, TimeoutError) as error:
        raise OSError(f"cannot be fetched ({getattr(error, 'reason', error)})") from error
