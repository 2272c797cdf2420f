"""The README's three commands after `make demo` and `make test`, on small data, without their launcher."""

import re
import shlex

import pytest
import torch

from models.uni_adafocus import UniAdaFocus
from tests.docs import commands, document, fences, section, without_digits
from tests.shared import ROOT, SMALL, SMALL_OPTIONS, run_forked, write_dataset
from tests.videos import make_video

SMALLER = {  # options that come last win; a published checkpoint does not tell predict.py these two
    "main.py": [*SMALL_OPTIONS, "--epochs", "1"],
    "predict.py": ["--num_segments", SMALL["num_segments"], "--patch_size", SMALL["patch_size"]],
}


@pytest.fixture
def work(tmp_path, thin_networks, no_pictures):
    """A folder with the scripts, a small dataset in the layout of ActivityNet, a small checkpoint, and a video."""
    for name in SMALLER:
        (tmp_path / name).symlink_to(ROOT / name)
    write_dataset(
        tmp_path / "PATH_TO_DATASET",
        {f"train{n}": [n] for n in range(4)},
        {f"val{n}": [n] for n in range(4)},
        names=("classInd.txt", "actnet_train_split.txt", "actnet_val_split.txt"),
    )
    make_video(tmp_path / "VIDEO.mp4", frames=12, rate=6)
    (tmp_path / "ckpt").mkdir()
    published = {f"module.{name}": value for name, value in UniAdaFocus(4, **SMALL).state_dict().items()}
    torch.save({"state_dict": published}, tmp_path / "ckpt" / "actnet_p128.pth.tar")
    return tmp_path


def test_each_command_ends_with_the_line_below_it(work):
    quick_start = section(document("README.md"), "Quick start")
    given = [command for command in commands(quick_start) if not command.startswith("make ")]
    shown = [re.sub(r"\b([NS])\1*\.\1+", "0.0", without_digits(text)) for text in fences(quick_start)]
    assert [re.search(r"\w+\.py", command)[0] for command in given] == ["main.py", "predict.py", "main.py"]
    for command, line in zip(given, shown, strict=True):
        words = shlex.split(re.sub(r"^(python|torchrun --nproc_per_node=4) ", "", command))
        printed = run_forked(*words, *SMALLER[words[0]], cwd=work).stdout
        assert without_digits(printed.splitlines()[-1]) == line.strip(), command
