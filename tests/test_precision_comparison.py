"""What is said of an evaluation below float32."""

import re

import pytest
import torch

import main
from models.uni_adafocus import UniAdaFocus
from ops import precision_comparison
from ops.inference import check_precision
from ops.precision_comparison import PrecisionComparison
from ops.utils.errors import UserError
from tests.conftest import SMALL, SMALL_OPTIONS, call, reference_weights, the_error

CPU = torch.device("cpu")


@pytest.fixture
def model(thin_networks):
    model = UniAdaFocus(4, **SMALL)
    model.load_state_dict(reference_weights(model))
    return model.eval()


@pytest.fixture
def bfloat16() -> str:
    try:
        check_precision("bfloat16", CPU)
    except UserError as error:
        pytest.skip(str(error))
    return "bfloat16"


def batches(number: int, size: int = 2):
    shape = (size, SMALL["num_segments"], 3, SMALL["input_size"], SMALL["input_size"])
    for first in range(0, number * size, size):
        frames = torch.randint(0, 256, shape, dtype=torch.uint8)
        yield frames, torch.zeros(size, 3, dtype=torch.int64), torch.arange(first, first + size)


def test_in_float32_nothing_is_compared(model):
    comparison, given = PrecisionComparison(model, "float32", False, CPU), list(batches(2))
    assert comparison.watch(given) is given
    assert comparison.summary(torch.zeros(4, 3), "accuracy") is None


def test_the_first_batches_and_every_so_many_are_compared_and_all_are_passed_on(model, bfloat16, monkeypatch):
    monkeypatch.setattr(precision_comparison, "AT_LEAST", 3)
    monkeypatch.setattr(precision_comparison, "COMPARE_EVERY", 3)
    comparison, given = PrecisionComparison(model, bfloat16, False, CPU), list(batches(5))
    passed = list(comparison.watch(given))
    assert all(there is here for there, here in zip(given, passed, strict=True))
    assert torch.cat(comparison.indices).tolist() == [0, 1, 2, 3, 6, 7]
    full = torch.cat([model(frames).logits for frames, _, _ in (given[0], given[1], given[3])]).detach()
    torch.testing.assert_close(torch.cat(comparison.logits[1]), full, rtol=1e-3, atol=1e-3)
    assert not torch.equal(torch.cat(comparison.logits[0]), torch.cat(comparison.logits[1]))


def test_the_summary_says_the_metric_of_both_on_the_videos_compared(model):
    comparison = PrecisionComparison(model, "bfloat16", False, CPU)
    comparison.indices, comparison.seconds = [torch.tensor([0, 1]), torch.tensor([5, 4])], [1.0, 2.0]
    truth = torch.full((6, 3), -1)
    truth[:, 0] = torch.tensor([0, 1, 3, 3, 2, 1])
    full = torch.eye(4)[[0, 1, 1, 2]]  # of videos 0, 1, 5, 4: all right
    lower = torch.eye(4)[[0, 1, 1, 3]]  # the last one wrong
    comparison.logits = ([lower[:2], lower[2:]], [full[:2], full[2:]])
    line = comparison.summary(truth, "accuracy")
    assert "bfloat16: 4.00 videos/s, 2.00 times float32" in line
    assert "top-1 accuracy 75.000, in float32 100.000 (-25.000), on 4 of 6 videos: 75.0 % with the same" in line
    assert "mAP 75.000, in float32 100.000" in comparison.summary(truth, "map")


def test_an_evaluation_in_bfloat16_says_so_and_in_float32_does_not(
    no_pictures, dataset_folder, tmp_path, bfloat16, capsys, model
):
    torch.save({"state_dict": model.state_dict()}, tmp_path / "weights.pth.tar")
    run = ["--dataset", "mine", "--data_dir", dataset_folder, "--root_log", tmp_path / "log", *SMALL_OPTIONS]
    run += ["--evaluate", "--resume", tmp_path / "weights.pth.tar"]
    assert call(main.main, *run) == 0
    assert "float32" not in capsys.readouterr().out
    assert call(main.main, *run, "--eval_precision", bfloat16) == 0
    assert re.search(r"^bfloat16: .* times float32 .* on 5 of 5 videos: ", capsys.readouterr().out, re.MULTILINE)
    assert call(main.main, *run, "--eval_precision", "float16") == 2
    assert "float16 is for GPUs" in the_error(capsys.readouterr().err)
