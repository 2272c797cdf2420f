"""ops/early_exit.py: the curve is the published one, and thresholds, decisions and costs hang together at the edges."""

import math

import numpy as np
import pytest
import torch

from ops.early_exit import CRITERIA, criterion_values, exit_curve, exit_decisions
from ops.early_exit.curve import exit_thresholds
from tests.reference.recipe import _uniform
from tests.shared import REFERENCE

EXITS, CLASSES = 17, 20


@pytest.fixture(scope="module")
def published() -> dict[str, np.ndarray]:
    with np.load(REFERENCE / "functions.npz") as file:
        return {name: file[name] for name in file.files if name.startswith(("ee_", "gflops_"))}


def published_logits(name: str, labels: np.ndarray) -> np.ndarray:
    """Logits [N, 17, 20] of ever surer exits, as tests/reference/README.md describes."""
    logits = _uniform(f"shared/{name}", (len(labels), EXITS, CLASSES), -2, 2)
    hardness = _uniform(f"shared/{name}h", (len(labels), 1), 0.2, 3)
    logits[np.arange(len(labels)), :, labels] += np.linspace(0.6, 2.2, EXITS) * hardness
    return logits


@pytest.fixture(scope="module")
def splits(published) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Training logits, validation logits, validation labels."""
    train, val = (published_logits(name, published[f"{name}_y"]) for name in ("ee_train", "ee_val"))
    return train, val, published["ee_val_y"]


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize(("dataset", "metric"), [("minik", "accuracy"), ("actnet", "map")])
def test_the_curve_is_the_published_one(splits, published, dataset, metric, criterion):
    train, val, labels = splits
    padded = np.stack([labels, np.full_like(labels, -1), np.full_like(labels, -1)], axis=1)
    points = exit_curve(train, val, padded, published["gflops_128"], criterion, metric)
    expected = {name: published[f"ee_{dataset}_{criterion}_{name}"] for name in ("gflops", "metric", "exit_ratio")}
    assert [point.p for point in points] == list(range(1, 20))
    np.testing.assert_array_equal([point.exit_ratio for point in points], expected["exit_ratio"])
    np.testing.assert_allclose([point.metric for point in points], expected["metric"], atol=1e-3)
    np.testing.assert_allclose([point.gflops for point in points], expected["gflops"], rtol=1e-6)


def test_single_labels_need_no_padding_and_tensors_serve_as_well_as_arrays(splits, published):
    train, val, labels = splits
    costs = published["gflops_96"]
    padded = np.stack([labels, np.full_like(labels, -1)], axis=1)
    of_arrays = exit_curve(train, val, padded, costs, "entropy", "map")
    of_tensors = exit_curve(*(torch.from_numpy(array) for array in (train, val, labels, costs)), "entropy", "map")
    assert [(point.metric, point.gflops) for point in of_arrays] == [
        (point.metric, point.gflops) for point in of_tensors
    ]


def test_the_random_choice_is_repeatable_and_set_by_the_seed(splits, published):
    train, val, labels = splits

    def random_metrics(**options: int) -> list[float]:
        points = exit_curve(
            train[:100], val[:100], labels[:100], published["gflops_128"], "confidence", "accuracy", **options
        )
        return [point.random_metric for point in points]

    assert random_metrics() == random_metrics() != random_metrics(seed=1)


def test_choosing_at_random_sends_as_many_videos_to_each_exit():
    # At every exit all videos are right or all are wrong, so only the number of videos per exit matters.
    rng = np.random.default_rng(0)
    train, val = rng.standard_normal((2, 200, 5, 2)).astype(np.float32)
    val[..., 0], val[..., 1] = val.max(axis=-1), val.min(axis=-1)
    val[:, [1, 3]] = val[:, [1, 3], ::-1]
    for point in exit_curve(train, val, np.zeros(200, int), [1, 2, 3, 4, 5], "confidence", "accuracy"):
        assert point.random_metric == point.metric == pytest.approx(100 * point.exit_ratio[[0, 2, 4]].sum())


def test_a_surer_choice_of_videos_beats_a_random_one(splits, published):
    train, val, labels = splits
    point = exit_curve(train, val, labels, published["gflops_128"], "confidence", "accuracy")[14]
    assert point.metric > point.random_metric + 20


@pytest.mark.parametrize("criterion", CRITERIA)
def test_decisions_with_a_points_thresholds_are_the_exits_of_the_curve(splits, published, criterion):
    train, val, labels = splits
    point = exit_curve(train, val, labels, published["gflops_128"], criterion, "accuracy")[9]
    exits = exit_decisions(val, point.thresholds, criterion)
    np.testing.assert_array_equal(np.bincount(exits, minlength=EXITS), np.rint(point.exit_ratio * len(val)))
    one_by_one = torch.cat([exit_decisions(video[None], point.thresholds, criterion) for video in val])
    assert torch.equal(exits, one_by_one)
    from_text = [float(repr(float(threshold))) for threshold in point.thresholds]
    assert torch.equal(exits, exit_decisions(val, from_text, criterion))


def test_a_video_leaves_at_the_first_exit_it_reaches_and_the_last_takes_all():
    logits = torch.tensor([[5.0, 1.0, 9.0], [4.9, 5.0, 9.0], [0.0, 0.0, 0.0]])[..., None]  # [N=3, K=3, C=1]
    assert exit_decisions(logits, [5.0, 5.0, 100.0], "confidence").tolist() == [0, 1, 2]
    assert exit_decisions(logits, [math.inf, math.inf, -math.inf], "confidence").tolist() == [2, 2, 2]


@pytest.mark.parametrize("classes", [1, 2, 7, 16, 20, 101, 200, 239])
@pytest.mark.parametrize("criterion", CRITERIA)
def test_a_value_does_not_depend_on_the_batch_to_the_last_bit(criterion, classes):
    logits = 6 * torch.randn(301, 17, classes, generator=torch.Generator().manual_seed(classes))
    values = criterion_values(logits, criterion)
    assert values.shape == (301, 17) and values.dtype == torch.float32
    assert torch.equal(criterion_values(logits[:, 3], criterion), values[:, 3])  # one exit, as inference sees it
    for batch in (1, 2, 3, 8, 64):
        parts = [criterion_values(part[:, 3], criterion) for part in logits.split(batch)]
        assert torch.equal(torch.cat(parts), values[:, 3])
    assert torch.equal(criterion_values(logits[5, 3], criterion), values[5, 3])


def test_confidence_is_the_largest_raw_logit_and_entropy_the_sum_of_p_log_p():
    logits = torch.tensor([[1.0, 3.0, 2.0], [7.0, 7.0, 7.0]])
    assert criterion_values(logits, "confidence").tolist() == [3.0, 7.0]
    p = logits.double().softmax(dim=1)
    torch.testing.assert_close(criterion_values(logits, "entropy"), (p * p.log()).sum(dim=1).float())


def test_entropy_of_a_certain_prediction_is_zero_even_at_the_end_of_the_number_range():
    logits = torch.tensor([[0.0, 200.0, 0.0], [-3e38, 3e38, 0.0]])
    assert criterion_values(logits, "entropy").tolist() == [0.0, 0.0]


def confident_values(*rows: list[float]) -> np.ndarray:
    return np.array(rows, dtype=np.float32)


def test_each_exit_takes_its_share_of_the_most_confident_still_there():
    values = confident_values(*[[v, 10 + v, 0] for v in range(14)])
    # p = 10: shares 4/7, 2/7, 1/7; exit 0 takes 8 (values 13 to 6), exit 1 the 4 surest of the remaining 6.
    assert exit_thresholds(values, p=10).tolist() == [6, 12, -math.inf]


def test_videos_that_share_a_threshold_leave_together():
    values = confident_values(*[[v, v, v] for v in (9, 8, 7, 7, 7, 7, 1, 0, 0, 0, 0, 0, 0, 0)])
    # Exit 0 is to take 8: the eighth value is 0, and all the seven zeros leave with it.
    thresholds = exit_thresholds(values, p=10)
    assert thresholds.tolist() == [0, math.inf, -math.inf]  # nobody is left for exit 1, so it sends nobody
    assert exit_decisions(values[..., None], thresholds, "confidence").tolist() == [0] * 14


def test_when_ties_leave_fewer_than_an_exit_is_to_take_it_takes_them_all():
    first = [5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 2, 1, 0]  # exit 0 takes eleven instead of eight, exit 1 is to take four
    values = confident_values(*[[v, 20 - v, 0] for v in first])
    assert exit_thresholds(values, p=10).tolist() == [5, 18, -math.inf]


@pytest.mark.parametrize("criterion", CRITERIA)
def test_a_share_of_no_video_sends_nobody(splits, published, criterion):
    train, val, labels = splits
    for point in exit_curve(train[:1], val, labels, published["gflops_128"], criterion, "accuracy"):
        assert point.thresholds.tolist() == [math.inf] * (EXITS - 1) + [-math.inf]
        assert point.exit_ratio.tolist() == [0] * (EXITS - 1) + [1]
        assert point.gflops == published["gflops_128"][-1] and point.metric == point.random_metric


@pytest.mark.parametrize("metric", ["accuracy", "map"])
@pytest.mark.parametrize("videos", [1, 5])
@pytest.mark.filterwarnings("ignore:.*classes have no video")
def test_fewer_videos_than_exits_give_a_whole_curve(splits, published, videos, metric):
    train, val, labels = splits
    points = exit_curve(train[:videos], val[:videos], labels[:videos], published["gflops_128"], "confidence", metric)
    assert len(points) == 19
    for point in points:
        assert point.exit_ratio.sum() == pytest.approx(1) and 0 <= point.metric <= 100
        assert point.gflops == pytest.approx(float(point.exit_ratio @ published["gflops_128"]), rel=1e-6)


def test_a_single_exit_takes_everyone():
    logits = np.random.default_rng(0).standard_normal((6, 1, 3)).astype(np.float32)
    for point in exit_curve(logits, logits, logits[:, 0].argmax(axis=1), [4.5], "entropy", "accuracy"):
        assert (point.gflops, point.metric, point.random_metric) == (4.5, 100, 100)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("split", ["training", "validation"])
def test_logits_that_are_not_finite_are_refused_by_video_and_exit(splits, published, split, value):
    train, val, labels = (array[:30].copy() for array in splits)
    (train if split == "training" else val)[21, 4, 6] = value
    with pytest.raises(ValueError, match=f"{split} logits of video 21 at exit 4 .*not finite"):
        exit_curve(train, val, labels, published["gflops_128"], "entropy", "accuracy")
    if split == "validation":
        with pytest.raises(ValueError, match=r"logits of video 21 at exit 4 .*not finite"):
            exit_decisions(val, np.zeros(EXITS), "entropy")


def test_shapes_that_do_not_fit_together_are_refused(splits, published):
    train, val, labels = (array[:30] for array in splits)
    costs = published["gflops_128"]

    def refused(match: str, *arguments: object) -> None:
        with pytest.raises(ValueError, match=match):
            exit_curve(*arguments, "confidence", "accuracy")

    refused(r"expected \[N, K, C\]", train[:, 1:], val, labels, costs)
    refused(r"expected \[N, K, C\]", train[..., 1:], val, labels, costs)
    refused(r"expected \[N, K, C\]", train[0], val[0], labels, costs)
    refused("one cost for each of the 17 exits", train, val, labels, costs[1:])
    refused("29 rows of labels for 30 validation videos", train, val, labels[1:], costs)
    refused("training logits have shape .* none of them 0", train[:0], val, labels, costs)
    with pytest.raises(ValueError, match="one for each of 17 exits"):
        exit_decisions(val, np.zeros(16), "confidence")


def test_an_unknown_criterion_or_metric_is_refused(splits, published):
    train, val, labels = (array[:30] for array in splits)
    with pytest.raises(ValueError, match="unknown criterion 'margin'; choose one of confidence, entropy"):
        exit_curve(train, val, labels, published["gflops_128"], "margin", "accuracy")
    with pytest.raises(ValueError, match="unknown metric 'top1'; choose one of map, accuracy"):
        exit_curve(train, val, labels, published["gflops_128"], "confidence", "top1")
