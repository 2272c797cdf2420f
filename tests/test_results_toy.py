"""The whole chain in miniature, as results/toy.py and results/demo.py run it: pretrain, train, evaluate, leave early,
predict, and what the tables say of it."""

import contextlib
import copy
import csv
import json
import os
import subprocess
from dataclasses import replace
from statistics import mean, stdev

import numpy as np
import pytest

import main
import main_semiAMP
import test_early_exit_uni_adafocus
from ops import checkpoint
from ops.early_exit.run import halves
from ops.toy import dataset as toy_dataset
from ops.toy import policies as policy_report
from ops.toy import pretrain
from ops.toy.dataset import ToySettings, make_toy_dataset
from ops.utils.errors import UserError
from opts import build_parser, parse_options
from results import demo, toy
from results.toy import DEMO, PRESETS, PUBLISHED, goals, make_results, markdown, over_seeds, settings_of
from tests.shared import ROOT, SMALL, call, the_error
from tests.thin import no_pictures, thin_networks

DATA = {"num_train": 4, "num_val": 4, "num_classes": 2, "frames": 12, "height": 64, "width": 64}
OPTIONS = {**SMALL, "epochs": 1, "batch_size": 2, "workers": 0}
MINIATURE = replace(DEMO, data=DATA, options=OPTIONS)
pytestmark = pytest.mark.usefixtures("thin_networks", "no_pictures")
STEPS = ("videos", "pretraining", "training", "what the policies are worth", "policies against the truth", "early exit")
RUN = "UniAdaFocus_toy_mbv2_segment6_e1"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with the results of one seed, made in this process, and the steps that it took."""
    folder = tmp_path_factory.mktemp("results")
    with pytest.MonkeyPatch.context() as patch, thin_networks(), no_pictures():
        steps = in_this_process(patch)
        patch.setattr(pretrain, "STEPS", pretrain.Steps(4, 4, 4, 4))
        patch.setattr("os.sched_getaffinity", lambda process: {0})  # thin networks are this process's
        make_results(MINIATURE, 1, 1, folder / "data", folder / "log", folder / "out")
    return folder, steps


def in_this_process(patch: pytest.MonkeyPatch) -> list[str]:
    """Let steps run without a process of their own; returns a list that their names are added to."""
    steps = []
    scripts = {
        "main.py": main.main,
        "main_semiAMP.py": main_semiAMP.main,
        "test_early_exit_uni_adafocus.py": test_early_exit_uni_adafocus.main,
        "ops/toy/dataset.py": toy_dataset.main,
        "ops/toy/policies.py": policy_report.main,
        "ops/toy/pretrain.py": pretrain.main,
    }

    def step(name, script, arguments):
        steps.append(name.removeprefix("seed 0: ").partition(";")[0])
        assert call(scripts[script], *arguments) == 0

    patch.setattr(toy, "run_step", step)
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
    run = folder / "log" / "seed_0" / RUN
    (seed,) = results["seeds"]
    assert results["settings"] == {"data": DATA, "options": OPTIONS, "calibrate_on": "val_half"}
    assert seed["policies"] == json.loads((run / "policy_report.json").read_text())
    assert len(seed["ablation"]) == 9
    assert f"{seed['ablation'][0]['metric']:g}" == (run / "ablation.csv").read_text().splitlines()[1].split(",")[3]
    assert [point["p"] for point in seed["early_exit"]["entropy"]] == list(range(1, 20))
    shares = seed["early_exit"]["entropy"][9]
    expected = sum(shares[f"exit_{number}"] * exit["metric"] for number, exit in enumerate(seed["their_exits"]))
    assert shares["random_metric"] == pytest.approx(expected)
    thresholds = json.loads((run / "early_exit_entropy.json").read_text())
    assert thresholds["calibrated_on"] == "val_half"
    with np.load(run / "exit_logits.npz") as kept:  # four videos, of which two are evaluated
        right = kept["val_logits"].argmax(2) == kept["val_labels"][:, :1]
    assert [exit["metric"] for exit in seed["fixed_exits"]] == (100 * right.mean(0)).tolist()
    assert [exit["metric"] for exit in seed["their_exits"]] == (100 * right[halves(4)[1]].mean(0)).tolist()
    # Leaving at the last exit is the plain network.
    assert seed["fixed_exits"][-1]["metric"] == pytest.approx(seed["ablation"][0]["metric"], abs=1e-3)
    assert seed["fixed_exits"][-1]["gflops"] == pytest.approx(seed["ablation"][0]["gflops"], rel=1e-4)
    page = (folder / "out" / "toy.md").read_text()
    assert "one seed" in page and "num_train 4" in page and "--num_segments 6" in page
    assert all(f"| {goal['name']} | {goal['value']:.2f} |" in page for goal in results["goals"])
    for criterion in ("confidence", "entropy"):
        rows = list(csv.DictReader((run / f"early_exit_{criterion}.csv").open()))
        for point, row in zip(seed["early_exit"][criterion], rows, strict=True):
            assert (point["gflops"], point["metric"]) == (float(row["gflops"]), float(row["metric"]))
    cells = [f"{row['metric']:.1f}" for row in seed["ablation"][3:6]]
    assert f"| random | {' | '.join(cells)} |" in page
    assert f"| learned | {seed['policies']['in_span']['learned']:.1f} |" in page
    assert (folder / "out" / "toy_early_exit.png").read_bytes().startswith(b"\x89PNG")


def test_training_starts_from_the_pretrained_weights(made):
    folder, _ = made
    path = folder / "data" / "pretrained_mbv2_2_64_32.pth.tar"
    before = checkpoint.read(path).state_dict
    assert {key.split(".")[0] for key in before} == {
        "global_CNN",
        "global_CNN_fc",
        "aux_fc",
        "local_CNN",
        "local_CNN_fc",
    }
    log = (folder / "log" / "seed_0" / RUN / "log.csv").read_text()
    assert f"weights of {path}" in log and "newly initialised: spatial_policy." in log
    after = checkpoint.read(folder / "log" / "seed_0" / RUN / "ckpt.pth.tar").state_dict
    moved = max(float((after[key] - before[key]).abs().max()) for key in before if key.endswith("weight"))
    assert 0 < moved < 0.1


def test_the_demonstration_ends_with_a_table_pictures_and_predictions(made, tmp_path, monkeypatch, capsys):
    folder, _ = made
    monkeypatch.chdir(tmp_path)
    commands, main = [], demo.predict.main
    monkeypatch.setattr(demo.predict, "main", lambda given: commands.append(given) or main(given))
    given = [text for name, value in OPTIONS.items() for text in (f"--{name}", value)]
    given += ["--data_dir", folder / "data", "--root_log", folder / "log" / "seed_0"]
    assert call(demo.main, *given) == 0
    printed = capsys.readouterr().out
    results = json.loads((folder / "out" / "toy.json").read_text())
    assert "\n".join(demo.table(results["seeds"][0], 2)) in printed
    run = folder / "log" / "seed_0" / RUN
    shared = f"--resume {run / 'ckpt.pth.tar'} --classes {folder / 'data' / 'classInd.txt'} --topk 1 --height 144"
    assert [" ".join(command[2:]) for command in commands] == [  # behind two videos
        f"{shared} --save_images demo",
        f"{shared} --thresholds {run / 'early_exit_entropy.json'} --operating_point 19",
    ]
    assert sorted(path.name for path in (tmp_path / "demo").iterdir()) == ["val_0001.png", "val_0002.png"]
    assert printed.splitlines()[-1].startswith("2 videos, 0 failed")
    assert call(demo.main, *given, "--epochs", 3) == 2
    assert "train first" in the_error(capsys.readouterr().err)


def test_the_table_of_the_demonstration_says_what_was_found():
    (seed, *_) = json.loads((ROOT / "results" / "toy.json").read_text())["seeds"]
    metric = {(row["patch_policy"], row["frame_policy"]): row["metric"] for row in seed["ablation"]}
    points = {point["p"]: point for point in seed["early_exit"]["entropy"]}
    in_span, covered = seed["policies"]["in_span"], seed["policies"]["covered"]
    steps = ["the glance", *(f"patch {number}" for number in range(1, 5))]
    expected = [
        "Accuracy on 600 new videos of 12 classes, in percent:",
        *(
            f"  {f'after {step}':26s} {exit['metric']:6.1f}   {exit['gflops']:.2f} GFLOPs a video"
            for step, exit in zip(steps, seed["fixed_exits"], strict=True)
        ),
        "Each video leaves once the network is sure enough (early exit):",
        *(
            f"  {f'operating point {p}':26s} {points[p]['metric']:6.1f}   {points[p]['gflops']:.2f} GFLOPs a video "
            "on average"
            for p in (10, 15, 19)
        ),
        "All patches, but chosen in another way:",
        f"  where the policies say     {metric['learned', 'learned']:6.1f}",
        f"  patches at random          {metric['random', 'learned']:6.1f}",
        f"  patches in the centre      {metric['center', 'learned']:6.1f}",
        f"  frames evenly spread       {metric['learned', 'uniform']:6.1f}",
        "How well it looks:",
        f"  frames that show the badge {in_span['learned']:6.1f}   at random {in_span['random']:.1f}",
        f"  of the badge in the patch  {covered['learned']:6.1f}   at random {covered['random, base size']:.1f}",
    ]
    assert list(demo.table(seed, 12)) == expected


def test_goals_are_judged_by_the_figures_of_all_seeds(made):
    folder, _ = made
    (run,) = json.loads((folder / "out" / "toy.json").read_text())["seeds"]
    met = {goal["name"]: goal["met"] for goal in goals([_as_wanted(run, 92.0), _as_wanted(run, 94.0)])}
    assert len(met) == 9 and all(met.values())
    found = {goal["name"]: goal for goal in goals([_as_wanted(run, 92.0), _as_wanted(run, 94.0, random=93.9)])}
    # 12 and 0.1 points: more than 5 on average, but not more than twice the standard error.
    assert found["above random patches, points"]["value"] == pytest.approx(6.05)
    assert not found["above random patches, points"]["met"]
    assert sum(not goal["met"] for goal in found.values()) == 1

    one, other = _as_wanted(run, 92.0), _as_wanted(run, 94.0)
    one["early_exit"]["entropy"][4]["random_metric"] = 92.5  # better than early exit, at p = 5
    found = {goal["name"]: goal for goal in goals([one, other])}
    worst = found["early exit above as many random exits at its worst point, points"]
    assert worst["value"] == pytest.approx((-0.5 + 1) / 2) and worst["met"]
    assert worst["wanted"] == "at least 0 (worst: p = 5, standard error 0.75)"
    one["early_exit"]["entropy"][4]["random_metric"] = 93.5
    assert sum(not goal["met"] for goal in goals([one, other])) == 1


def _as_wanted(run, final, random=80.0):
    """A run like another, with figures that meet all goals."""
    run = copy.deepcopy(run)
    for row in run["ablation"]:
        learned = row["patch_policy"] == row["frame_policy"] == "learned"
        row["metric"] = final if learned else (random if row["patch_policy"] == "random" else 80.0)
    for exits in (run["fixed_exits"], run["their_exits"]):
        for exit, metric in zip(exits, (70.0, 85.0, final), strict=True):
            exit["metric"] = metric
    for points in run["early_exit"].values():
        for point in points:
            point |= {"gflops": 0.5 * run["fixed_exits"][-1]["gflops"], "metric": final, "random_metric": final - 1}
    run["policies"]["in_span"] |= {"learned": 80.0, "random": 30.0}
    run["policies"]["covered"] |= {"learned": 80.0, "random, base size": 45.0, "random, learned size": 40.0}
    run["policies"]["patch_area"] |= {"learned": 20.0, "random, base size": 25.0, "random, learned size": 20.0}
    return run


def test_what_is_done_is_not_done_again(made, monkeypatch):
    folder, first = made
    assert tuple(first) == STEPS
    again = in_this_process(monkeypatch)
    page = (folder / "out" / "toy.md").read_text()
    make_results(MINIATURE, 1, 1, folder / "data", folder / "log", folder / "out")
    assert again == [] and (folder / "out" / "toy.md").read_text() == page

    run = folder / "log" / "seed_0" / RUN
    (run / "ablation.csv").unlink()
    before = os.stat(run / "ckpt.pth.tar").st_mtime
    os.utime(run / "policy_report.json", (before - 1, before - 1))  # as of an earlier checkpoint
    make_results(MINIATURE, 1, 1, folder / "data", folder / "log", folder / "out")
    assert again == ["what the policies are worth", "policies against the truth"]


def test_each_seed_is_trained_to_its_end_in_a_folder_of_its_own_and_its_last_checkpoint_measured(tmp_path, monkeypatch):
    steps = []
    monkeypatch.setattr(toy, "run_step", lambda name, script, arguments: steps.append((script, arguments)))
    given = ["--dataset", "toy", "--data_dir", "toys", "--epochs", "2"]
    for seed in (0, 1):
        folder = tmp_path / f"seed_{seed}" / "UniAdaFocus_toy_mbv2_segment20_e2"
        folder.mkdir(parents=True)
        with pytest.raises(FileNotFoundError, match="exit_logits"):  # which a step would have written
            toy.run_seed(seed, given, tmp_path, "val_half")
        (training, arguments), *measuring = steps
        command = [*given, "--seed", str(seed), "--root_log", str(tmp_path / f"seed_{seed}")]
        assert (training, arguments) == ("main_semiAMP.py", [*command, "--resume", "auto"])
        last = f"--resume {folder / 'ckpt.pth.tar'}"
        assert len(measuring) == 3 and all(last in " ".join(arguments) for _, arguments in measuring)
        for epochs, trained in ((1, True), (2, False)):
            steps.clear()
            (folder / "metrics.jsonl").write_text("{}\n" * epochs)
            (folder / "ckpt.pth.tar").touch()
            with pytest.raises(FileNotFoundError):
                toy.run_seed(seed, given, tmp_path, "val_half")
            assert ("main_semiAMP.py" in [script for script, _ in steps]) == trained
        steps.clear()


def test_runs_with_other_settings_are_not_mixed_in(made):
    folder, _ = made
    with pytest.raises(UserError, match="holds runs with other settings"):
        make_results(
            replace(MINIATURE, options=OPTIONS | {"epochs": 2}), 1, 1, folder / "data", folder / "log", folder / "out"
        )


def test_a_step_that_fails_says_which_and_why_and_leaves_no_page(tmp_path, capsys):
    options = OPTIONS | {"batch_size": 5}
    path = pretrain.file_in(tmp_path / "data", DATA["num_classes"], "mbv2", 64, 32)
    make_toy_dataset(tmp_path / "data", ToySettings(**DATA))
    path.touch()
    with pytest.raises(UserError, match=r"seed 0: training; see .*: error: --batch_size 5 is larger than the training"):
        make_results(replace(MINIATURE, options=options), 1, 1, tmp_path / "data", tmp_path / "log", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert capsys.readouterr().out.startswith("seed 0: training")


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
def test_the_page_in_the_repository_is_that_of_its_figures(preset):
    figures = ROOT / "results" / f"{preset.files}.json"
    results = json.loads(figures.read_text())
    assert results["settings"] == settings_of(preset)
    assert markdown(results, preset) == figures.with_suffix(".md").read_text()


def test_the_picture_has_the_means_and_deviations_of_the_seeds(monkeypatch, tmp_path):
    results, drawn = json.loads((ROOT / "results" / "toy.json").read_text()), []
    monkeypatch.setattr(toy, "early_exit_figure", lambda *given, **named: drawn.append((*given, named["bands"])))
    monkeypatch.setattr(toy, "save_png", lambda path, figure: None)
    toy.draw_curves(tmp_path / "toy.png", results, DEMO)
    ((curves, title, bands),) = drawn
    assert title == "toy, mean ± standard deviation of 5 seeds"
    exits = [[seed["their_exits"][number] for seed in results["seeds"]] for number in range(5)]
    assert curves.gflops == pytest.approx([mean(each["gflops"] for each in of_all) for of_all in exits])
    assert curves.fixed == pytest.approx([mean(each["metric"] for each in of_all) for of_all in exits])
    for criterion, points in curves.points.items():
        for number, point in enumerate(points):
            of_all = [seed["early_exit"][criterion][number] for seed in results["seeds"]]
            for name in ("p", "gflops", "metric", "random_metric"):
                assert getattr(point, name) == pytest.approx(mean(each[name] for each in of_all))
            assert bands[criterion][number] == pytest.approx(stdev(each["metric"] for each in of_all))


def test_results_at_the_published_sizes_have_files_of_their_own_which_say_so(made, tmp_path, monkeypatch, capsys):
    """The steps are those of other results; what is done is taken over, also from a machine with other cores."""
    folder, _ = made
    steps = in_this_process(monkeypatch)
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(6)))
    published = replace(PUBLISHED, data=DATA, options=OPTIONS, calibrate_on=DEMO.calibrate_on)
    monkeypatch.setitem(PRESETS, "published", published)
    places = ["--data_dir", folder / "data", "--root_log", folder / "log", "--out", tmp_path]
    assert call(toy.main, "--sizes", "published", "--seeds", 1, *places) == 0
    assert steps == []
    names = ["toy_published_sizes.json", "toy_published_sizes.md", "toy_published_sizes_early_exit.png"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    page = (tmp_path / names[1]).read_text()
    assert page.startswith("# Results on the toy dataset at the published sizes\n")
    assert "`python results/toy.py --sizes published`" in page and f"]({names[2]})" in page
    met = sum(goal["met"] for goal in json.loads((tmp_path / names[0]).read_text())["goals"])
    said = f"done: 1 seeds, {met} of 9 goals met; {tmp_path / names[1]}, {names[0]} and {names[2]}\n"
    assert capsys.readouterr().out.endswith(said)


def test_the_published_sizes_are_those_of_the_published_recipe():
    recipe = build_parser("published").parse_args([])
    options = parse_options(
        build_parser("toy"), ["--dataset", "toy", *(f"--{name}={value}" for name, value in PUBLISHED.options.items())]
    )
    for name in ("num_segments", "num_glance_segments", "num_focus_segments", "input_size", "patch_size"):
        assert getattr(options, name) == getattr(recipe, name)
    assert ToySettings(**PUBLISHED.data).frames == options.num_segments


def test_each_step_says_how_long_it_took(monkeypatch, capsys):
    monkeypatch.setattr("subprocess.run", lambda *_, **__: subprocess.CompletedProcess([], 0, "", ""))
    times = iter((10.0, 17.4))
    monkeypatch.setattr("time.monotonic", lambda: next(times))
    toy.run_step("seed 1: training; see log.csv", "main.py", [])
    assert capsys.readouterr().out == "seed 1: training; see log.csv\nseed 1: training: 7 s\n"


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
