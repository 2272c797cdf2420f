"""Files that are read whole, and files that are there whole or not at all."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from ops.utils.errors import UserError

BESIDE = ".writing"  # ends the names of files that are being written


def read_utf8(path: Path, what: str) -> bytes:
    """The text of a file without its byte-order mark. UserError, with the line, where it cannot be read as UTF-8.

    what: "class file", for instance.
    """
    try:
        content = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
        content.decode()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the {what} and its permissions") from None
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}:{line}: not valid UTF-8; save the {what} as UTF-8") from None
    return content


def has_utf8_name(path: str) -> bool:
    """Whether a file's name is UTF-8 on the disk: OpenCV finds no other, and crashes where it is to write there."""
    return os.fsencode(path).decode(errors="ignore") == path


def remove_leftovers(folder: Path) -> None:
    """Remove what killed writes of a run left in its folder."""
    for path in folder.glob(f".*{BESIDE}"):
        path.unlink(missing_ok=True)


def is_pipe_or_device(path: Path) -> bool:
    """Whether something is there that takes bytes and keeps none: /dev/null, or what `>(command)` stands for."""
    return path.exists() and not path.is_file() and not path.is_dir()


def check_writable(path: Path) -> None:
    """Find out before the work whether `whole_file` will be able to write once the folders of `path` are made.

    Asking for permissions is not enough: root has them in /proc, too. So a file is made beside, and removed at once.
    Raises UserError where it cannot be written.
    """
    try:
        if is_pipe_or_device(path):
            return
        with contextlib.suppress(FileNotFoundError):
            os.stat(path)  # fails where a file is in the place of a folder
        folder = next(parent for parent in Path(os.path.realpath(path)).parents if parent.is_dir())
        beside = folder / _beside(path)
        beside.touch()
        beside.unlink()
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write, beside `path`, which takes that name when the block ends well and is gone when it does not.

    A link stays and its file is replaced; a pipe or a device is written to as it is. Raises UserError where it cannot
    be written.
    """
    target = Path(os.path.realpath(path))
    beside = target.with_name(_beside(target))
    try:
        if is_pipe_or_device(path):
            with open(path, "wb") as file:
                yield file
            return
        try:
            with open(beside, "wb") as file:
                yield file
            os.replace(beside, target)
        finally:
            with contextlib.suppress(OSError):
                beside.unlink()
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error


def _beside(path: Path) -> str:
    """The name of the file that is written in place of `path`."""
    return f".{path.name}.{os.getpid()}{BESIDE}"
