"""results/toy.py: the toy results from training to tables."""

import contextlib
import json
import os

import pytest

import main
import test_early_exit_uni_adafocus
from ops.toy import policies as policy_report
from ops.utils.errors import UserError
from results import toy
from results.toy import make_results, markdown, over_seeds
from tests.conftest import ROOT, SMALL, call, the_error
from tests.thin import no_pictures, thin_networks

DATA = {"num_train": 4, "num_val": 4, "num_classes": 2, "frames": 12}
OPTIONS = {**SMALL, "epochs": 1, "batch_size": 2, "workers": 0}
pytestmark = pytest.mark.usefixtures("thin_networks", "no_pictures")
STEPS = ("training; see", "ablation", "policies against the truth", "early exit")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with the results of one seed, made in this process, and the steps that it took."""
    folder = tmp_path_factory.mktemp("results")
    with pytest.MonkeyPatch.context() as patch, thin_networks(), no_pictures():
        steps = in_this_process(patch)
        make_results(1, 1, DATA, OPTIONS, folder / "data", folder / "log", folder / "out")
    return folder, steps


def in_this_process(patch: pytest.MonkeyPatch) -> list[str]:
    """Let steps run without a process of their own; returns a list that their names are added to."""
    steps = []
    scripts = {
        "main.py": main.main,
        "test_early_exit_uni_adafocus.py": test_early_exit_uni_adafocus.main,
        "ops.toy.policies": policy_report.main,
    }

    def step(seed, name, arguments):
        steps.append(name)
        script, *rest = arguments[1:] if arguments[0] == "-m" else arguments
        assert call(scripts[script], *rest) == 0

    patch.setattr(toy, "_step", step)
    patch.setattr(toy, "ThreadPoolExecutor", _NoThreads)  # scripts listen for signals, which threads may not
    return steps


class _NoThreads(contextlib.nullcontext):
    def __enter__(self):
        return self

    def map(self, function, values):
        return map(function, values)


def test_every_figure_of_the_page_comes_from_the_files_of_the_runs(made):
    folder, _ = made
    results = json.loads((folder / "out" / "toy.json").read_text())
    run = folder / "log" / "seed_0" / "UniAdaFocus_toy_mbv2_segment6_e1"
    (seed,) = results["seeds"]
    assert results["settings"] == {"data": DATA, "options": OPTIONS}
    assert seed["policies"] == json.loads((run / "policy_report.json").read_text())
    assert len(seed["ablation"]) == 9
    assert f"{seed['ablation'][0]['metric']:g}" == (run / "ablation.csv").read_text().splitlines()[1].split(",")[3]
    assert [point["p"] for point in seed["early_exit"]["entropy"]] == list(range(1, 20))
    # Leaving at the last exit is the plain network.
    assert seed["fixed_exits"][-1]["metric"] == pytest.approx(seed["ablation"][0]["metric"], abs=1e-3)
    assert seed["fixed_exits"][-1]["gflops"] == pytest.approx(seed["ablation"][0]["gflops"], rel=1e-4)
    page = (folder / "out" / "toy.md").read_text()
    assert "one seed" in page and "num_train 4" in page and "--num_segments 6" in page
    cells = [f"{row['metric']:.1f}" for row in seed["ablation"][3:6]]
    assert f"| random | {' | '.join(cells)} |" in page
    assert f"| learned | {seed['policies']['in_span']['learned']:.1f} |" in page
    assert (folder / "out" / "toy_early_exit.png").read_bytes().startswith(b"\x89PNG")


def test_what_is_done_is_not_done_again(made, monkeypatch):
    folder, first = made
    assert [name.split(";")[0] for name in first] == [name.split(";")[0] for name in STEPS]
    again = in_this_process(monkeypatch)
    page = (folder / "out" / "toy.md").read_text()
    make_results(1, 1, DATA, OPTIONS, folder / "data", folder / "log", folder / "out")
    assert again == [] and (folder / "out" / "toy.md").read_text() == page

    run = folder / "log" / "seed_0" / "UniAdaFocus_toy_mbv2_segment6_e1"
    (run / "ablation.csv").unlink()
    before = os.stat(run / "ckpt.pth.tar").st_mtime
    os.utime(run / "policy_report.json", (before - 1, before - 1))  # as of an earlier checkpoint
    make_results(1, 1, DATA, OPTIONS, folder / "data", folder / "log", folder / "out")
    assert again == ["ablation", "policies against the truth"]


def test_runs_with_other_settings_are_not_mixed_in(made):
    folder, _ = made
    with pytest.raises(UserError, match="holds runs with other settings"):
        make_results(1, 1, DATA, OPTIONS | {"epochs": 2}, folder / "data", folder / "log", folder / "out")


def test_a_step_that_fails_says_which_and_why_and_leaves_no_page(tmp_path, capsys):
    options = OPTIONS | {"batch_size": 5}
    with pytest.raises(UserError, match=r"seed 0, training; see .*: error: --batch_size 5 is larger than the training"):
        make_results(1, 1, DATA, options, tmp_path / "data", tmp_path / "log", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert capsys.readouterr().out.startswith("seed 0: training")


def test_the_page_in_the_repository_is_that_of_its_figures():
    figures = json.loads((ROOT / "results" / "toy.json").read_text())
    assert markdown(figures) == (ROOT / "results" / "toy.md").read_text()


def test_wrong_options_are_one_line(capsys):
    assert call(toy.main, "--seeds", 0) == 2
    assert "argument --seeds: 0 is below 1" in the_error(capsys.readouterr().err)


def test_numbers_of_several_seeds_become_mean_and_deviation():
    runs = [{"name": "a", "values": [1, {"b": 2.0}]}, {"name": "a", "values": [3, {"b": 2.0}]}]
    found = over_seeds(runs)
    assert found["name"] == "a"
    assert found["values"][0] == {"mean": 2, "std": pytest.approx(2**0.5)}
    assert found["values"][1] == {"b": {"mean": 2.0, "std": 0.0}}
    assert over_seeds([4.0]) == {"mean": 4.0, "std": None}
