"""Image files that break while a run goes on are counted; too many of them end it."""

from transformers.utils import logging

logger = logging.get_logger(__name__)

_SHARE, _LEAST = 0.01, 10  # of the files that a log interval tried to read; and so many at least


class TooManyUnreadable(Exception):
    """Images are missing or damaged in numbers: training on would be on other data."""


class UnreadableImages:
    """Names image files that could not be read and counts them from log line to log line, over all processes."""

    def __init__(self):
        self._named: set[str] = set()
        self._skipped = self._seen = 0

    def name(self, faults: list[str]) -> None:
        """Log those that are new to this process: `TrainingSamples`' "unreadable"."""
        for fault in faults:
            if fault not in self._named:
                self._named.add(fault)
                logger.warning(f"{fault}: skipped, another image is in its place")

    def count(self, skipped: int, seen: int) -> None:
        """Count the files skipped and the images seen in a step of all processes."""
        self._skipped += skipped
        self._seen += seen

    def end_interval(self) -> int:
        """
        The number skipped since the last time.

        Raises:
            TooManyUnreadable: if it is more than a hundredth of the files tried, and at least ten.
        """
        skipped, tried = self._skipped, self._skipped + self._seen
        self._skipped = self._seen = 0
        if skipped >= _LEAST and skipped > _SHARE * tried:
            raise TooManyUnreadable(
                f"{skipped} of the last {tried} image files could not be read: "
                f"{'; '.join(sorted(self._named)[:5]) or 'another process names them'}. Is the disk still there? With "
                "the files in place, go on with --resume_from_checkpoint latest; `dino-detr check-data` names all"
            )
        return skipped
