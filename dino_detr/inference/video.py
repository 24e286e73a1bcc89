"""Videos: frames read one at a time, and pictures written as a video."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

VIDEO_SUFFIXES = {".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv"}

_TICKS = 90_000  # a second: what MP4 counts time in
_USUAL_RATE = 30  # frames a second, of a file that does not say


@dataclass
class Frame:
    """
    A frame of a video.

    Args:
        video: its file.
        index: counted from 0.
        time: seconds since the start.
        pixels: uint8 `[3, h, w]`, upright; None where they are not kept.
    """

    video: str
    index: int
    time: float
    pixels: Tensor | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        return f"{self.video}, frame {self.index}"

    def read(self) -> Tensor:
        """
        Return its pixels.

        Raises:
            OSError: if they were not kept.
        """
        if self.pixels is None:
            raise OSError(f"{self.name} was not kept: draw frames while they come, from Detector.stream")
        return self.pixels


def is_video(name: str) -> bool:
    return Path(name).suffix.lower() in VIDEO_SUFFIXES and "://" not in name


class Video:
    """
    A video file, of which a frame is decoded at a time.

    Args:
        name: the file.

    Raises:
        ImportError: if PyAV is not installed.
        OSError: if it is no video, or a damaged one.
    """

    def __init__(self, name: str):
        self.name = name
        with _as_os_errors():
            av = _import_av()
            self._container = av.open(name)
            self._stream = next(iter(self._container.streams.video), None)
        if self._stream is None:
            raise OSError("it has no pictures")
        self.rate = Fraction(self._stream.average_rate or self._stream.guessed_rate or _USUAL_RATE)
        self.num_frames: int | None = self._stream.frames or None  # None: the file does not say

    def __iter__(self) -> Iterator[Frame]:
        index = -1
        with _as_os_errors(), self._container:
            for index, frame in enumerate(self._container.decode(self._stream)):
                time = index / float(self.rate) if frame.time is None else frame.time
                pixels = np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90)
                yield Frame(self.name, index, time, torch.tensor(pixels.copy()).permute(2, 0, 1))
        if index < 0:
            raise OSError("it has no frame that can be decoded")


class VideoWriter:
    """
    An MP4 file (H.264) of pictures.

    Args:
        path: to write to.
        rate: frames a second.
    """

    def __init__(self, path: Path, rate: Fraction):
        av = _import_av()
        self._container = av.open(str(path), "w")
        self._stream: Any = self._container.add_stream("libx264", rate=rate)
        self._stream.pix_fmt = "yuv420p"  # what every player shows
        self._stream.codec_context.time_base = Fraction(1, _TICKS)
        self._size = 0, 0
        self._last = -1

    def write(self, picture: Image.Image, time: float) -> None:
        """
        Add a picture, to be shown from `time` (seconds) on.

        A side of odd length loses its last pixel. One of another size than the first is resized to that.
        """
        if self._last < 0:
            self._size = picture.size
            self._stream.width, self._stream.height = (side - side % 2 for side in self._size)
        elif picture.size != self._size:
            picture = picture.resize(self._size)
        even = picture.crop((0, 0, self._stream.width, self._stream.height))
        frame = _import_av().VideoFrame.from_image(even)
        self._last = max(self._last + 1, round(time * _TICKS))
        frame.pts, frame.time_base = self._last, Fraction(1, _TICKS)
        self._container.mux(self._stream.encode(frame))

    def close(self) -> None:
        """Write what is still to be written. Nothing was, of a video without a picture."""
        if self._last >= 0:
            self._container.mux(self._stream.encode(None))
        self._container.close()


def _import_av() -> Any:
    try:
        import av
    except ImportError as error:
        raise ImportError("videos need PyAV: pip install 'dino-detr[video]'") from error
    return av


@contextmanager
def _as_os_errors() -> Iterator[None]:
    """Turn FFmpeg's errors, which are of a dozen kinds, into an OSError each."""
    av = _import_av()
    try:
        yield
    except av.FFmpegError as error:
        raise OSError(f"no video that FFmpeg can read ({error.strerror})") from error
