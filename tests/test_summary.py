"""`--summary`: parameters and GFLOPs of each part."""

import re

import pytest
import torch

import main
import main_semiAMP
import test_early_exit_uni_adafocus
from models.uni_adafocus import UniAdaFocus
from ops.flops import exit_gflops
from ops.summary import summary_parts, training_heads
from tests.shared import SMALL, call, the_error

SCRIPTS = (main, main_semiAMP, test_early_exit_uni_adafocus)


def table(printed: str) -> dict[str, tuple[int, float]]:
    rows = re.findall(r"^([a-zA-Z' ]+?) +([\d,]+) +(\d+\.\d{4})\b", printed, re.MULTILINE)
    return {name: (int(parameters.replace(",", "")), float(gflops)) for name, parameters, gflops in rows}


def test_the_published_settings_cost_the_published_gflops_and_need_no_data(capsys):
    assert call(main.main, "--summary") == 0
    printed = capsys.readouterr().out
    gflops = {name: cost for name, (_, cost) in table(printed).items()}
    assert gflops["glance network"] == pytest.approx(16 * 0.2995, abs=1e-3)
    assert gflops["spatial policy"] == pytest.approx(0.8225, abs=1e-4)
    assert gflops["temporal policy"] == pytest.approx(0.0041, abs=1e-4)
    assert gflops["focus network"] == pytest.approx(16 * 1.3346, abs=1e-3)
    assert gflops["a prediction"] == pytest.approx(27.23, abs=5e-3)
    assert "16 x 0.2995" in printed and "16 x 1.3346" in printed
    assert re.search(r"exit  0 +4\.8889\n(.*\n){15}  exit 16 +27\.2292\n$", printed)


@pytest.mark.parametrize("arch", ["mbv2", "res50"])
def test_the_parts_are_all_parameters_and_the_cost_of_the_last_exit(arch):
    with torch.device("meta"):
        model = UniAdaFocus(4, **SMALL, glance_arch=arch)
    parts = summary_parts(model)
    assert sum(part.gflops for part in parts) == pytest.approx(exit_gflops(model)[-1])
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert sum(part.parameters for part in [*parts, training_heads(model)]) == trained


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.__name__)
def test_every_entry_script_has_it_and_leaves_nothing_behind(thin_networks, script, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert call(script.main, "--summary", "--dataset", "toy", "--num_focus_segments", 3) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("toy: 12 classes") and "  exit  3 " in printed and "  exit  4 " not in printed
    assert list(tmp_path.iterdir()) == []


def test_the_number_of_classes_is_that_of_the_data_where_they_are(thin_networks, dataset_folder, capsys):
    assert call(main.main, "--summary", "--dataset", "actnet", "--data_dir", dataset_folder) == 0
    assert capsys.readouterr().out.startswith(f"actnet: 4 classes ({dataset_folder / 'classInd.txt'})")
    assert call(main.main, "--summary", "--dataset", "fcvid", "--data_dir", "PATH_TO_DATASET") == 0
    assert capsys.readouterr().out.startswith("fcvid: 239 classes")


def test_a_dataset_of_your_own_needs_its_folder(tmp_path, capsys):
    assert call(main.main, "--summary", "--dataset", "mine") == 2
    assert "how many classes has --dataset mine? --data_dir is not given" in the_error(capsys.readouterr().err)
    assert call(main.main, "--summary", "--dataset", "mine", "--data_dir", tmp_path) == 2
    assert f"{tmp_path / 'classInd.txt'} does not exist" in the_error(capsys.readouterr().err)


def test_training_still_needs_a_data_folder(capsys):
    assert call(main.main) == 2
    assert "--dataset actnet needs --data_dir" in the_error(capsys.readouterr().err)
