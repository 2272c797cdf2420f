"""The rooms of the code: imports go one way, and the names that others build on stay where they are."""

import ast
import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.shared import ROOT

# From the top: a module may import from its own floor and from those below. A name without a dot is a whole room.
FLOORS = (
    ("main", "main_semiAMP", "test_early_exit_uni_adafocus", "predict"),
    ("ops.predict",),
    ("ops.early_exit",),
    ("ops.runner", "ops.setup", "ops.ablation", "ops.summary"),
    ("ops.toy",),
    ("ops.report",),
    ("ops.checkpoint", "ops.checkpoint_settings"),
    ("ops.engine", "ops.loss_history"),
    ("ops.inference", "ops.inference_cpu", "ops.stepwise"),
    ("ops.video_jpg", "ops.video"),
    ("ops.dataset", "ops.data", "dataset_config"),
    ("ops.losses", "ops.optim", "ops.metrics", "ops.flops"),
    ("models",),
    ("ops.utils", "opts"),
)


def floor_of(module: str) -> int:
    """The floor of a module by its dotted name, the longest matching entry."""
    found = [(len(name), floor) for floor, names in enumerate(FLOORS) for name in names if is_in(module, name)]
    assert found, f"{module} stands on no floor: add it to FLOORS"
    return max(found)[1]


def is_in(module: str, room: str) -> bool:
    return module == room or module.startswith(room + ".")


def modules() -> Iterator[tuple[str, Path]]:
    """Every module of the program, by its dotted name."""
    paths = [*ROOT.glob("*.py"), *(ROOT / "ops").rglob("*.py"), *(ROOT / "models").rglob("*.py")]
    for path in paths:
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        if name != "ops":
            yield name, path


def imports(path: Path) -> Iterator[str]:
    """The program's modules that a file imports, wherever in it."""
    known = {name for name, _ in modules()}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            whole = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in known else node.module for name in whole if {name, node.module} & known)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)


@pytest.mark.parametrize(("name", "path"), list(modules()), ids=[name for name, _ in modules()])
def test_imports_go_down(name, path):
    upwards = {imported for imported in imports(path) if floor_of(imported) < floor_of(name)}
    assert not upwards


def test_models_import_nothing_of_the_rest():
    for name, path in modules():
        if is_in(name, "models"):
            assert all(is_in(imported, "models") for imported in imports(path)), name


def test_the_first_floor_is_no_attic():
    assert len(list((ROOT / "ops").glob("[!_]*.py"))) <= 17


@pytest.mark.parametrize(
    ("module", "names"),
    [
        ("ops.dataset", ["VideoDataset", "collate_clips", "worker_init"]),
        ("ops.losses", ["training_losses"]),
        ("ops.engine", ["train_steps", "evaluate"]),
        ("ops.early_exit", ["exit_curve", "exit_decisions", "exit_thresholds", "criterion_values"]),
        ("ops.flops", ["exit_gflops"]),
        ("ops.metrics", ["mean_average_precision", "accuracy"]),
        ("ops.video_jpg", ["main", "extract_videos"]),
        ("dataset_config", ["get_dataset", "BUILT_IN"]),
        ("models.uni_adafocus", ["UniAdaFocus"]),
    ],
)
def test_the_names_that_others_build_on_stay_where_they_are(module, names):
    found = importlib.import_module(module)
    assert all(hasattr(found, name) for name in names)


@pytest.mark.parametrize("command", [["ops/video_jpg.py"], ["-m", "ops.video_jpg"]])
def test_extraction_starts_by_its_path_and_by_its_name(command):
    done = subprocess.run([sys.executable, *command, "--help"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "--dataset" in done.stdout
