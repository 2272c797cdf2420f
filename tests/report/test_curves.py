"""ops/report/curves.py: curves show the recorded figures."""

import json
import math
import warnings
from pathlib import Path

import pytest

from ops.losses import LOSS_NAMES
from ops.report.curves import curves_figure, draw_run, main, metric_names
from ops.utils.errors import UserError
from ops.utils.logger import read_records
from tests.shared import ROOT, call, run_script, the_error


def records(epochs: int = 4, metric: str = "accuracy") -> list[dict]:
    names = {"accuracy": ["Acc_pred@1", "Acc_cat@1", "Acc_pred@5", "Acc_cat@5"], "map": ["mAP", "smAP", "Cat_mAP"]}
    made = []
    for epoch in range(epochs):
        losses = {name: 10.0 - epoch + number for number, name in enumerate(LOSS_NAMES)}
        made.append({"epoch": epoch, "lr": 0.1 / (1 + epoch), "train": losses | {"data_time": 1.0}})
        if epoch % 2:
            made[-1]["val"] = {name: 10.0 * epoch + number for number, name in enumerate(names[metric])} | {
                "loss": 3.0,
                "replaced_frames": 0,
            }
    return made


def write(folder: Path, lines: list[dict], end: str = "\n") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)) + end)
    return folder


def lines_of(axes) -> dict[str, list]:
    return {line.get_label(): line.get_xydata().tolist() for line in axes.lines}


def test_a_run_shows_its_losses_terms_metrics_and_rate():
    panels = {axes.get_title(loc="left"): axes for axes in curves_figure({"run": records()}).axes}
    losses = lines_of(panels["cross-entropy, mean of all steps"])
    # The term "cat" is the sum of the two branches, and 1 above the loss in these records.
    assert losses == {"training": [[0, 5.5], [1, 5], [2, 4.5], [3, 4]], "validation": [[1, 3], [3, 3]]}
    terms = lines_of(panels["training loss and its terms"])
    assert list(terms) == list(LOSS_NAMES) and terms["loss"][0] == [0, 10] and terms["cat"][0] == [0, 11]
    metrics = lines_of(panels["validation (%)"])
    assert list(metrics) == ["Acc_pred@1", "Acc_cat@1", "Acc_pred@5"] and metrics["Acc_cat@1"] == [[1, 11], [3, 31]]
    assert lines_of(panels["learning rate"])["learning rate"][1] == [1, 0.05]


def test_the_main_metric_comes_first():
    assert metric_names(records(metric="map")) == ["mAP", "smAP", "Cat_mAP"]
    assert metric_names(records(epochs=1)) == []


def test_the_first_five_of_few_classes_are_not_shown():
    for classes, shown in ((6, False), (7, True)):
        assert ("Acc_pred@5" in metric_names([one | {"classes": classes} for one in records()])) == shown


def test_no_legend_hides_a_curve():
    figure = curves_figure({"run": records()})
    figure.canvas.draw()
    legends = [axes.get_legend() for axes in figure.axes if axes.get_legend()]
    assert len(legends) == 3
    for legend in legends:
        box = legend.get_window_extent()
        assert not any(box.overlaps(axes.get_window_extent()) for axes in figure.axes)
        assert figure.bbox.y0 <= box.y0 and figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1


def test_several_runs_are_compared_by_loss_and_main_metric():
    figure = curves_figure({"log/$a$": records(), "_b": records(2), "c": records(1)})
    losses, metrics = figure.axes
    assert list(lines_of(losses)) == ["log/$a$", "_b", "c"] and lines_of(metrics)["_b"] == [[1, 10]]
    assert lines_of(losses)["_b"] == [[0, 10], [1, 9]]
    assert "Acc_pred@1" in metrics.get_title(loc="left")
    (legend,) = figure.legends
    assert [text.get_text().strip() for text in legend.get_texts()] == [r"log/\$a\$", "_b", "c"]
    assert len({line.get_color() for line in losses.lines}) == 3


@pytest.mark.parametrize("epochs", [1, 2, 200])
def test_any_number_of_epochs_can_be_drawn_and_figures_that_are_not_finite(epochs):
    lines = records(epochs)
    lines[-1]["train"]["cat"] = float("nan")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = curves_figure({"run": lines})
        figure.set_dpi(40)
        figure.canvas.draw()
    panels = {axes.get_title(loc="left"): lines_of(axes) for axes in figure.axes}
    assert len(panels["training loss and its terms"]["loss"]) == epochs
    assert math.isnan(panels["training loss and its terms"]["cat"][-1][1])


def test_the_curves_go_into_the_folder_of_the_run_where_there_are_epochs(tmp_path):
    assert draw_run(tmp_path) is None
    (tmp_path / "metrics.jsonl").write_text("")
    assert draw_run(tmp_path) is None and not (tmp_path / "curves.png").exists()
    assert draw_run(write(tmp_path, records())) == tmp_path / "curves.png"
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_a_line_that_was_cut_off_is_left_out_and_a_damaged_one_is_named(tmp_path):
    path = write(tmp_path, records(2), end='\n{"epoch": 2, "tr') / "metrics.jsonl"
    assert [record["epoch"] for record in read_records(path)] == [0, 1]
    for damage in (
        "not a record", "[]", "7", "null", "{}", '{"epoch": null}', '{"epoch": Infinity}', '{"epoch": "1"}',
        '{"epoch": -1}', f'{{"epoch": 1{"0" * 400}}}', '{"epoch": 1, "lr": null}', '{"epoch": 1, "train": null}',
        '{"epoch": 1, "val": {"loss": null}}', '{"epoch": 1, "val": {"loss": []}}', "[" * 10**5, "\0",
    ):  # fmt: skip
        path.write_text('{"epoch": 0, "train": {}}\n' + damage + '\n{"epoch": 1, "train": {}}\n')
        with pytest.raises(UserError, match=r"metrics.jsonl:2: not a record"):
            read_records(path)
    path.write_text('{"epoch": 0, "lr": Infinity, "train": {"loss": -Infinity, "cat": 1e38}, "val": {"mAP": NaN}}\n')
    assert draw_run(tmp_path) == tmp_path / "curves.png"


def test_the_command_draws_one_run_or_compares_several(tmp_path, capsys):
    first, second = write(tmp_path / "one", records()), write(tmp_path / "two", records(2))
    assert call(main, first) == 0
    assert capsys.readouterr().out == f"done: {first / 'curves.png'}\n" and (first / "curves.png").exists()
    assert call(main, first, second) == 2
    assert "--output" in the_error(capsys.readouterr().err) and not (second / "curves.png").exists()
    assert call(main, first, second, "--output", tmp_path / "both.png") == 0 and (tmp_path / "both.png").exists()
    assert call(main, tmp_path / "nowhere") == 2
    assert "metrics.jsonl: cannot be read (No such file or directory)" in the_error(capsys.readouterr().err)
    write(tmp_path / "empty", [], end="")
    assert call(main, tmp_path / "empty") == 2
    assert "has no epoch yet" in the_error(capsys.readouterr().err)


def test_it_can_be_started_by_its_path_from_anywhere(tmp_path):
    folder = write(tmp_path / "run", records())
    assert run_script(ROOT / "ops" / "report" / "curves.py", folder, cwd=tmp_path).stdout.startswith("done: ")
