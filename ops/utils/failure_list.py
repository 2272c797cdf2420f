"""failed.txt: which videos could not be turned into frames, or not well, and why. One line each: name, tab, reason."""

import sys
from collections.abc import Collection, Sequence
from pathlib import Path

from ops.utils.errors import UserError
from ops.utils.files import whole_file

FAILED_FILE = "failed.txt"


def write_failures(target: Path, failed: Sequence[tuple[str, str]], settled: Collection[str], source: Path) -> None:
    """Write `target`/failed.txt, or remove it where nothing failed.

    Lines of earlier runs about videos that are not `settled` by this one stay while the video is in `source`: runs may
    share the work. A tab, line break or backslash in a name is written with a backslash.
    """
    path = target / FAILED_FILE
    settled = set(map(escape, settled))
    lines = {}
    try:
        if path.is_file():
            for line in path.read_bytes().decode(errors="surrogateescape").split("\n"):
                name = line.split("\t")[0]
                if name and name not in settled and ("\\" in name or (source / name).exists()):
                    lines[name] = line
        lines.update({escape(name): f"{escape(name)}\t{escape(reason)}" for name, reason in failed})
        if not lines:
            path.unlink(missing_ok=True)
            return
        with whole_file(path) as file:
            file.write("".join(f"{lines[name]}\n" for name in sorted(lines)).encode(errors="surrogateescape"))
    except (OSError, UserError) as error:
        print(f"warning: {error}", file=sys.stderr)


def listed(target: Path, beginnings: tuple[str, ...]) -> set[str]:
    """The names, as `escape` writes them, in `target`/failed.txt whose reasons begin so."""
    try:
        lines = (target / FAILED_FILE).read_bytes().decode(errors="surrogateescape").split("\n")
    except OSError:
        return set()
    return {line.split("\t")[0] for line in lines if line.partition("\t")[2].startswith(beginnings)}


def escape(text: str) -> str:
    """`text` without tabs and line breaks; a file name can hold both."""
    return text.replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r")


def printable(name: str) -> str:
    """A file name as it can be printed in one line on any terminal."""
    encoding = sys.stdout.encoding or "utf-8"
    return escape(name).encode(encoding, errors="backslashreplace").decode(encoding)
