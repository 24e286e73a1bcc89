"""What the clients are tried on."""

from helpers.detecting import checkpoint, photos  # noqa: F401 fixtures
