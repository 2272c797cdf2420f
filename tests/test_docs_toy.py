"""The commands that the documents show on the toy dataset, word for word, on few videos and a thin network."""

import json
import re
import shlex
from pathlib import Path

import cv2
import pytest

from tests.docs import commands, document, fences, section, without_digits
from tests.shared import ROOT, SMALL_OPTIONS, run_forked
from tests.thin import thin_networks

DEFAULT_RUN, SMALL_RUN = "UniAdaFocus_toy_mbv2_segment20_e3", "UniAdaFocus_toy_mbv2_segment6_e1"
SMALLER = [*SMALL_OPTIONS, "--epochs", "1"]  # options that come last win
TAKES_SIZES = ("main.py", "test_early_exit_uni_adafocus.py")
VIDEOS = ["--data_dir", "data/toy", "--num_train", 6, "--num_val", 4, "--num_classes", 3, "--frames", 16]


def run(work: Path, text: str) -> dict[str, str]:
    """Run the commands of a text, in their order: what each of them printed."""
    printed, variables = {}, {}
    for command in commands(text):
        if variable := re.fullmatch(r"(\w+)=(\S+)", command):
            variables[f"${variable[1]}"] = variable[2]
            continue
        line = command
        for placeholder, value in {**variables, "CKPT": f"log/{DEFAULT_RUN}/ckpt.best.pth.tar"}.items():
            line = line.replace(placeholder, value)
        line = re.sub(r"ONE_RUN|ANOTHER_RUN", SMALL_RUN, line).replace(DEFAULT_RUN, SMALL_RUN)
        program, *words = shlex.split(line)
        if program != "tensorboard":
            assert program == "python"
            printed[command] = run_forked(*words, *(SMALLER if words[0] in TAKES_SIZES else []), cwd=work).stdout
    return printed


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    """A folder with the scripts and a few toy videos, in which the network has been trained."""
    work = tmp_path_factory.mktemp("toy")
    for name in ("main.py", "predict.py", "test_early_exit_uni_adafocus.py"):
        (work / name).symlink_to(ROOT / name)
    with thin_networks():
        run_forked("-m", "ops.toy.dataset", *VIDEOS, cwd=work)
        (printed,) = run(work, section(document("docs/DATA.md"), "The toy dataset")).values()
    assert printed.splitlines()[-1].endswith(f"logs and checkpoints in log/{SMALL_RUN}")
    return work


def test_ablations_and_the_policies_against_the_truth(work, thin_networks):
    printed = run(work, section(document("docs/EVALUATION.md"), "Ablations of the policies"))
    assert len(printed) == 5
    assert len((work / "log" / SMALL_RUN / "ablation.csv").read_text().splitlines()) == 1 + 9
    assert "random, learned size" in list(printed.values())[-1]


def test_early_exit_for_real(work, thin_networks):
    early_exit = section(document("docs/EVALUATION.md"), "Early exit")
    (printed,) = run(work, "".join(f"```bash\n{block}```\n" for block in fences(early_exit, "bash")[1:])).values()
    assert "p = 10: videos at each exit" in printed


def test_predictions_are_as_they_are_shown(work, thin_networks):
    text = document("docs/PREDICT.md").partition("\n## Options\n")[0]
    _, table = run(work, text).values()
    (shown,), (shown_json,) = fences(text), fences(text, "json")
    for line, expected in zip(table.splitlines(), shown.splitlines(), strict=True):
        if line.startswith(("data/", " ")):
            assert len(re.split(r"  +", line.strip())) == len(re.split(r"  +", expected.strip()))
        else:
            assert without_digits(line) == without_digits(expected)
    answers, (example,) = json.loads((work / "predictions.json").read_text()), json.loads(shown_json)
    assert len(answers) == 4 and all(list(answer) == list(example) for answer in answers)
    assert all(answers[0][name] == example[name] for name in ("video", "image", "clip"))
    assert all(list(one) == list(example["predictions"][0]) for one in answers[0]["predictions"])
    assert all(cv2.imread(str(work / answer["image"])).shape[1] == 2160 for answer in answers)
    assert all((work / answer["clip"]).stat().st_size > 1000 for answer in answers)


def test_curves_of_a_run_and_of_several(work):
    printed = run(work, section(document("docs/OUTPUTS.md"), "Pictures and tables"))
    assert [output.splitlines()[-1] for output in printed.values()] == [
        f"done: log/{SMALL_RUN}/curves.png", "done: comparison.png",
    ]  # fmt: skip
