"""What goes wrong with one video, and what to do about it."""

import stat
from pathlib import Path

INSTALL_FFMPEG = "install ffmpeg (apt-get install ffmpeg), then run this again"


class VideoError(Exception):
    """A video that cannot be turned into frames; the message says why in a few words."""


class NotPlain(VideoError):
    """A video that only the program ffmpeg reads faithfully; the message says so."""

    def __init__(self, why: str) -> None:
        super().__init__(f"{why}; {INSTALL_FFMPEG}")


def check_readable(path: Path) -> None:
    """Raises VideoError for what cannot be opened or is empty, as decoders say less about it, and for a pipe, on which
    they would wait for ever."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise VideoError("is not a file")
        with path.open("rb") as file:
            empty = not file.read(1)
    except OSError as error:
        raise VideoError(f"cannot be read ({error.strerror})") from None
    if empty:
        raise VideoError("is an empty file")
