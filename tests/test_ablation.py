"""Evaluation with other policies, as a user asks for it."""

import csv
import re
from pathlib import Path

import numpy as np
import pytest
import torch

import main
import test_early_exit_uni_adafocus
from models import ablation as policies
from models.uni_adafocus import UniAdaFocus
from ops.flops import exit_gflops
from opts import add_ablation_options, build_parser, parse_options
from tests.shared import SMALL, SMALL_OPTIONS, call, call_together, reference_weights, the_error, write_frames
from tests.thin import thin_networks

RUN = "UniAdaFocus_mine_mbv2_segment6_e50"
pytestmark = pytest.mark.usefixtures("thin_networks", "no_pictures")


@pytest.fixture(scope="module")
def options(tmp_path_factory) -> list[object]:
    """Options of an evaluation on five videos."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "classInd.txt").write_text("a\nb\nc\nd\n")
    (folder / "train_split.txt").write_text("val0,8,0\n")
    (folder / "val_split.txt").write_text("".join(f"val{number},8,{number % 4}\n" for number in range(5)))
    for number in range(5):
        write_frames(folder / "frames" / f"val{number}", 8, seed=number)
    path = folder / "reference.pth.tar"
    with thin_networks():
        torch.save({"state_dict": reference_weights(UniAdaFocus(4, **SMALL))}, path)
    return ["--dataset", "mine", "--data_dir", folder, *SMALL_OPTIONS, "--evaluate", "--resume", path]


@pytest.fixture(scope="module")
def finished(options, tmp_path_factory) -> Path:
    """The log folder of a comparison of all policies, which tests only read."""
    log = tmp_path_factory.mktemp("log")
    with thin_networks():
        assert call(main.main, *options, "--root_log", log, "--set_ablation") == 0
    return log / RUN


@pytest.fixture
def evaluate(options, tmp_path) -> list[object]:
    return [*options, "--root_log", tmp_path / "log"]


def rows_of(folder: Path) -> dict[tuple[str, str], dict[str, str]]:
    with open(folder / "ablation.csv", newline="") as file:
        return {(row["patch_policy"], row["frame_policy"]): row for row in csv.DictReader(file)}


def figures(printed: str) -> dict[str, float]:
    return {name: float(value) for name, value in re.findall(r"(\S+@1) (\S+)", printed)}


@pytest.mark.usefixtures("thin_networks")
def test_policies_with_one_other_choice_say_the_same_as_among_all(finished, evaluate, tmp_path):
    assert call(main.main, *evaluate, "--set_ablation", "single") == 0
    rows, among_all = rows_of(tmp_path / "log" / RUN), rows_of(finished)
    assert list(rows) == [pair for pair in among_all if "learned" in pair] and len(rows) == 5
    assert all(row == among_all[pair] for pair, row in rows.items())


def test_all_policies_are_compared_in_one_table(finished):
    lines = (finished / "log_eval.csv").read_text().partition("GFLOPs\n")[2].splitlines()
    assert len(lines) == 9 + 1 and lines[-1].startswith("ablation.csv is in")
    rows = rows_of(finished)
    assert list(rows) == [
        (patches, frames) for patches in policies.PATCH_POLICIES for frames in policies.FRAME_POLICIES
    ]
    cost = exit_gflops(UniAdaFocus(4, **SMALL))[-1]
    for (patches, frames), row in rows.items():
        assert row["draws"] == ("3" if "random" in (patches, frames) else "1")
        assert float(row["gflops"]) == pytest.approx(cost, rel=1e-4)
        if row["draws"] == "1":
            assert row["metric_std"] == row["local_metric_std"] == "0"
    assert any(row["metric_std"] != "0" or row["local_metric_std"] != "0" for row in rows.values())


@pytest.mark.parametrize("pair", [("learned", "learned"), ("center", "uniform")], ids=" ".join)
def test_the_table_says_what_an_evaluation_with_these_policies_says(evaluate, finished, capsys, pair):
    assert call(main.main, *evaluate, "--patch_policy", pair[0], "--frame_policy", pair[1]) == 0
    printed = capsys.readouterr().out
    assert ("Ablation: center patches, uniform frames" in printed) == (pair[0] == "center")
    row = rows_of(finished)[pair]
    assert float(row["metric"]) == pytest.approx(figures(printed)["Acc_pred@1"], abs=1e-3)
    assert float(row["local_metric"]) == pytest.approx(figures(printed)["Acc_local@1"], abs=1e-3)


def test_random_choices_depend_on_the_seed_and_not_on_the_batches(evaluate, tmp_path):
    def logits(name: str, *extra: object) -> np.ndarray:
        assert call(main.main, *evaluate, "--save_predictions", tmp_path / f"{name}.npz", *extra) == 0
        with np.load(tmp_path / f"{name}.npz") as predictions:
            return predictions["logits"]

    random = ["--patch_policy", "random", "--frame_policy", "random"]
    expected = logits("batches of 2", *random)
    np.testing.assert_allclose(logits("batches of 1", *random, "--batch_size", 1), expected, atol=1e-3)
    assert {path.name for path in (tmp_path / "log" / RUN).iterdir()} == {
        ".lock",
        "log_eval.csv",
    }  # no figures per class, as of the run
    assert np.abs(logits("learned") - expected).max() > 1e-2
    assert np.abs(logits("another seed", *random, "--seed", 1) - expected).max() > 1e-2


def test_two_processes_write_the_table_of_one(evaluate, finished, tmp_path):
    done = call_together(main.main, *evaluate, "--set_ablation")
    assert rows_of(tmp_path / "log" / RUN) == rows_of(finished)
    assert done.stdout.count("Ablation of the policies") == 1


def test_a_checkpoint_from_elsewhere_leaves_the_runs_table_alone(evaluate, tmp_path):
    folder = tmp_path / "log" / RUN
    folder.mkdir(parents=True)
    for name in ("metrics.jsonl", "ablation.csv"):
        (folder / name).write_text("")
    assert call(main.main, *evaluate, "--set_ablation", "single") == 0
    assert (folder / "ablation.csv").read_text() == ""
    assert len((folder / "ablation_of_reference.csv").read_text().splitlines()) == 5 + 1


def test_logits_that_are_not_finite_are_one_line_and_leave_no_table(evaluate, tmp_path, capsys):
    state = torch.load(evaluate[evaluate.index("--resume") + 1])
    state["state_dict"]["local_CNN.conv1.weight"].fill_(torch.nan)
    torch.save(state, tmp_path / "diverged.pth.tar")
    assert call(main.main, *evaluate, "--resume", tmp_path / "diverged.pth.tar", "--set_ablation") == 2
    assert "not finite, first in local_CNN.conv1.weight" in the_error(capsys.readouterr().err)
    assert not (tmp_path / "log" / RUN / "ablation.csv").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("--patch_policy random", "--patch_policy needs --evaluate; training is always with the learned policies"),
        ("--set_ablation", "--set_ablation needs --evaluate"),
        ("--evaluate --resume x --set_ablation --frame_policy uniform", "--frame_policy belongs to a single"),
        ("--evaluate --resume x --set_ablation --save_predictions y", "--save_predictions belongs to a single"),
        ("--patch_policy middle", "invalid choice: 'middle'"),
    ],
)
def test_options_that_do_not_go_together_are_one_line(text, message, capsys):
    assert call(main.main, "--dataset", "toy", *text.split()) == 2
    assert message in the_error(capsys.readouterr().err)


def test_early_exit_has_the_learned_policies_only(capsys):
    code = call(test_early_exit_uni_adafocus.main, "--dataset", "toy", "--resume", "x", "--patch_policy", "random")
    assert code == 2
    assert "unrecognized arguments: --patch_policy random" in the_error(capsys.readouterr().err)


def test_the_options_offer_the_policies_that_there_are():
    parser = build_parser("test")
    add_ablation_options(parser)
    for name, known in (("patch", policies.PATCH_POLICIES), ("frame", policies.FRAME_POLICIES)):
        for policy in known:
            arguments = ["--dataset", "toy", "--evaluate", "--resume", "x", f"--{name}_policy", policy]
            assert getattr(parse_options(parser, arguments), f"{name}_policy") == policy
