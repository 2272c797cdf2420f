"""README.md and the other documents: links lead somewhere, every command, option and name exists."""

import argparse
import importlib
import re
import shlex
import sys
from pathlib import Path
from unittest.mock import patch
from urllib.parse import unquote

import pytest
import torch
from torch.distributed.run import get_args_parser as launcher_parser

import opts
from models.uni_adafocus import UniAdaFocus
from ops.early_exit.curve import compute_curves
from ops.early_exit.thresholds import Weights, file_hash, write_thresholds
from tests.docs import DOCUMENTS, code_spans, commands, document, fences, relative_name, without_fences
from tests.shared import REFERENCE, ROOT, SMALL

LONGEST_README = 150  # lines
ONE_PARSER = ("main", "main_semiAMP", "test_early_exit_uni_adafocus")  # these share `opts.parse_options`
OTHERS_OPTIONS = {  # of Slurm and TensorBoard
    "--requeue", "--signal", "--nodes", "--gpus-per-node", "--open-mode", "--logdir",
}  # fmt: skip
OTHERS_MODULES = {"torch.distributed.launch", "venv", "zipfile"}
OTHERS_PROGRAMS = {"apt-get", "pip", "tensorboard"}
EVERY_DOCUMENT = pytest.mark.parametrize("path", DOCUMENTS, ids=relative_name)


def test_the_readme_is_short():
    assert len(document("README.md").splitlines()) <= LONGEST_README


# ---- links


def anchors(text: str) -> set[str]:
    """What GitHub makes of the headings."""
    headings = re.findall(r"^#+ (.+)$", without_fences(text), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


@EVERY_DOCUMENT
def test_links_lead_to_files_and_headings_that_exist(path):
    text = without_fences(path.read_text(encoding="utf-8"))
    found = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'(?:src|href)="([^"]+)"', text)
    broken = []
    for link in found:
        if re.match(r"https?://", link):
            continue
        name, _, anchor = unquote(link).partition("#")
        target = (path.parent / name).resolve() if name else path
        if not (target.is_relative_to(ROOT) and target.exists()):
            broken.append(f"{link}: no such file")
        elif anchor and anchor not in anchors(target.read_text(encoding="utf-8")):
            broken.append(f"{link}: no such heading")
    assert not broken


def test_every_document_is_linked_from_the_readme():
    for path in DOCUMENTS[1:]:
        assert f"]({relative_name(path)}" in document("README.md")


# ---- names


@EVERY_DOCUMENT
def test_files_and_python_names_in_the_text_exist(path):
    unknown = []
    for span in code_spans(path.read_text(encoding="utf-8")):
        if re.fullmatch(r"(models|ops|benchmarks|results|tests|docs)/[\w/.]*|[\w/]+\.py", span):
            known = (ROOT / span).exists() or (path.parent / span).exists()
        elif re.fullmatch(r"(models|ops)(\.\w+)+", span):
            known = _is_importable(span)
        else:
            continue
        if not known:
            unknown.append(span)
    assert not unknown


def test_the_tests_of_the_promises_exist():
    names = [span for span in code_spans(document("docs/FAULTS.md")) if span.startswith("test_")]
    tests = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    assert len(names) > 30 and not [name for name in names if f"def {name}(" not in tests]


def _is_importable(name: str) -> bool:
    """Whether a dotted name is a module, or something in one."""
    module, _, attribute = name.rpartition(".")
    try:
        return hasattr(importlib.import_module(module), attribute) or bool(importlib.import_module(name))
    except ImportError:
        return False


# ---- options


def entry_scripts() -> list[str]:
    """The modules that can be started as scripts."""
    files = [file for where in ("", "ops/**/", "benchmarks/", "results/") for file in ROOT.glob(f"{where}*.py")]
    starts = [path for path in files if re.search(r"^    run_entry\(main\)$", path.read_text(), flags=re.MULTILINE)]
    return [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in starts]


@pytest.fixture(scope="module")
def known_options() -> set[str]:
    parsers = [launcher_parser()]
    for name in entry_scripts():
        keep = patch.object(argparse.ArgumentParser, "print_help", lambda parser, *_: parsers.append(parser))
        with keep, pytest.raises(SystemExit):
            importlib.import_module(name).main(["--help"])
    return {option for parser in parsers for action in parser._actions for option in action.option_strings}


@EVERY_DOCUMENT
def test_every_option_is_one_of_some_script(path, known_options):
    named = set(re.findall(r"(?<![\w-])--[A-Za-z][\w-]*", path.read_text(encoding="utf-8")))
    assert named - known_options - OTHERS_OPTIONS == set()


# ---- commands


class Parsed(Exception):
    """A script's parser has understood its arguments."""

    def __init__(self, parser: argparse.ArgumentParser, arguments: list[str]) -> None:
        self.parser, self.arguments = parser, arguments


def parse(module: str, arguments: list[str]) -> None:
    """Let a script read its arguments, and do nothing else; it exits where they are wrong."""
    original = argparse.ArgumentParser.parse_args

    def parse_args(parser: argparse.ArgumentParser, given: list[str], *others: object) -> None:
        original(parser, given, *others)
        raise Parsed(parser, given)

    try:
        with patch.object(argparse.ArgumentParser, "parse_args", parse_args):
            importlib.import_module(module).main(arguments)
    except Parsed as parsed:
        if module in ONE_PARSER:
            opts.parse_options(parsed.parser, parsed.arguments)
    except SystemExit as left:
        assert left.code == 0 and arguments == ["--help"]


def check(command: str) -> None:
    """Fail where a command names no script, module, make target or program that there is, or has wrong arguments."""
    words = shlex.split(command)
    while words and (re.match(r"\w+=", words[0]) or words[0] == "srun"):
        words.pop(0)
    if not words:  # only sets a variable
        return
    program = words.pop(0).rpartition("/")[2]
    if program == "torchrun" or (program == "python" and words[:2] == ["-m", "torch.distributed.launch"]):
        launched = launcher_parser().parse_args(words[2:] if program == "python" else words)
        program, words = "python", [launched.training_script, *launched.training_script_args]
    if program == "make":
        assert all(re.search(rf"^{target}:", document("Makefile"), flags=re.MULTILINE) for target in words)
    elif program == "python" and words[0] == "-m":
        ours = words[1].startswith(("ops.", "benchmarks."))
        assert ours or words[1] in OTHERS_MODULES
        if ours:
            parse(words[1], words[2:])
    elif program == "python":
        assert words[0].endswith(".py") and (ROOT / words[0]).is_file(), f"{words[0]} is no file"
        parse(words[0].removesuffix(".py").replace("/", "."), words[1:])
    else:
        assert program in OTHERS_PROGRAMS


def all_commands() -> list[tuple[str, str]]:
    """Every command of every document, in blocks and in the text; those with ... are beginnings of commands."""
    found = []
    for path in DOCUMENTS:
        text = path.read_text(encoding="utf-8")
        spans = [span for span in code_spans(text) if re.match(r"make \w|(python|torchrun) .*(-m |\.py)", span)]
        found += [(relative_name(path), command) for command in [*commands(text), *spans] if "..." not in command]
    return found


@pytest.mark.parametrize(("name", "command"), all_commands())
def test_every_command_is_understood(name, command, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["script"])
    try:
        check(command)
    except SystemExit:
        pytest.fail(capsys.readouterr().err)


def test_the_published_commands_stand_there_word_for_word():
    blocks = (REFERENCE / "published_commands.txt").read_text().strip().split("\n\n")
    shown = fences(document("docs/TRAINING.md"), "bash") + fences(document("docs/EVALUATION.md"), "bash")
    assert len(blocks) == 4 and {f"{block}\n" for block in blocks} <= set(shown)


# ---- Python


@EVERY_DOCUMENT
def test_python_examples_run(path, thin_networks, tmp_path, monkeypatch):
    """Each leaves logits of the shape that its comments promise: of 200 classes, and of the model that it was given."""
    promised = {"output": (1, 200), "answer": (2, 4)}
    model = UniAdaFocus(4, **SMALL).eval()
    monkeypatch.chdir(tmp_path)
    _write_thresholds(model, Path("ckpt.best.pth.tar"), Path("early_exit_confidence.json"))
    for example in fences(path.read_text(encoding="utf-8"), "python"):
        names = {
            "frames": torch.zeros(1, 48, 3, 224, 224, dtype=torch.uint8),
            "model": model,
            "clips": torch.zeros(2, SMALL["num_segments"], 3, 64, 64, dtype=torch.uint8),
        }
        exec(example, names)
        (made,) = promised.keys() & names.keys()
        assert names[made].logits.shape == promised[made]


def _write_thresholds(model: UniAdaFocus, checkpoint: Path, path: Path) -> None:
    """The file of thresholds that early exit makes for a checkpoint, here for an empty one."""
    checkpoint.touch()
    exits = SMALL["num_focus_segments"] + 1
    logits = torch.randn(20, exits, 4, generator=torch.Generator().manual_seed(0))
    curves = compute_curves(logits, logits, torch.zeros(20, 1).long(), list(range(1, exits + 1)), "accuracy", seed=0)
    write_thresholds(path, curves, "confidence", "train", model, Weights(checkpoint, file_hash(checkpoint)))
