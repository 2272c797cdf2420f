"""README.md and the other documents as the tests read them: sections, fenced blocks, commands."""

import re
from pathlib import Path

from tests.shared import ROOT

DOCUMENTS = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "ckpt" / "README.md",
    ROOT / "benchmarks" / "README.md",
]
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", flags=re.DOTALL | re.MULTILINE)


def document(name: str) -> str:
    """The text of a document, by its path in the repository."""
    return (ROOT / name).read_text(encoding="utf-8")


def section(text: str, heading: str) -> str:
    """From a heading of the second level to the next one."""
    return text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


def fences(text: str, language: str = "") -> list[str]:
    """What the fenced blocks of a language hold."""
    return [content for kind, content in _FENCE.findall(text) if kind == language]


def without_fences(text: str) -> str:
    """The text around the fenced blocks."""
    return _FENCE.sub("", text)


def code_spans(text: str) -> list[str]:
    """The `code` around the fenced blocks."""
    return re.findall(r"`([^`\n]+)`", without_fences(text))


def commands(text: str) -> list[str]:
    """The commands of all bash blocks, each in one line and without its comment."""
    lines = "".join(fences(text, "bash")).replace("\\\n", " ").splitlines()
    return [command for line in lines if (command := re.sub(r"(^|\s+)#.*", "", line).strip())]


def relative_name(path: Path) -> str:
    """A document's path in the repository."""
    return str(path.relative_to(ROOT))


def without_digits(line: str) -> str:
    """A line with every number 0, to compare what differs from run to run."""
    return re.sub(r"\d+", "0", line)
