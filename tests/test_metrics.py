"""ops/metrics.py: accuracy, mAP and the named figures agree with the published code and with their definitions."""

import warnings

import numpy as np
import pytest
import torch

from ops import metrics
from ops.metrics import (
    HEADS,
    TRAINING_ACCURACIES,
    accuracy,
    classes_without_video,
    evaluation_metrics,
    main_metric,
    mean_average_precision,
    step_mean,
    training_accuracy,
)
from tests.reference.recipe import _uniform
from tests.shared import REFERENCE


@pytest.fixture(scope="module")
def published() -> dict[str, np.ndarray]:
    with np.load(REFERENCE / "functions.npz") as file:
        return {name: file[name] for name in file.files if name.startswith("metric_")}


@pytest.fixture(scope="module")
def published_logits() -> np.ndarray:
    return _uniform("shared/metric_logits", (300, 20), -4, 4)


def random_case(seed: int, videos: int = 60, classes: int = 7) -> tuple[np.ndarray, np.ndarray]:
    """Logits, and labels in which every class has a video; the last rows have up to three classes."""
    rng = np.random.default_rng(seed)
    labels = np.full((videos, 3), -1)
    labels[:, 0] = np.arange(videos) % classes
    labels[videos // 2 :, 1] = rng.integers(-1, classes, videos - videos // 2)
    labels[-videos // 4 :, 2] = rng.integers(-1, classes, videos // 4 + (videos % 4 > 0))
    return rng.standard_normal((videos, classes)).astype(np.float32), labels


def average_precision_by_definition(scores: np.ndarray, positive: np.ndarray) -> float:
    hits, precisions = 0, []
    for rank, row in enumerate(np.argsort(-scores, kind="stable"), start=1):
        if positive[row]:
            hits += 1
            precisions.append(hits / rank)
    return 100 * sum(precisions) / len(precisions)


def test_mean_average_precision_is_the_published_one(published, published_logits):
    value, per_class = mean_average_precision(published_logits, published["metric_labels"])
    assert value == pytest.approx(float(published["metric_map"]), abs=1e-3)
    np.testing.assert_allclose(per_class, published["metric_ap"], atol=1e-3)


def test_accuracy_is_the_published_one(published, published_logits):
    assert accuracy(published_logits, published["metric_labels"][:, 0]) == pytest.approx(
        published["metric_acc"], abs=1e-3
    )


@pytest.mark.parametrize("ties", [False, True])
def test_average_precision_follows_its_definition_and_ties_rank_in_row_order(ties):
    logits, labels = random_case(seed=1)
    if ties:  # rows from few patterns: equal probabilities among and between positives and negatives
        logits = logits[np.arange(len(logits)) % 5]
    _, per_class = mean_average_precision(logits, labels)
    probabilities = torch.from_numpy(logits).softmax(dim=1).numpy()
    for number, value in enumerate(per_class):
        positive = (labels == number).any(axis=1)
        assert value == pytest.approx(average_precision_by_definition(probabilities[:, number], positive), abs=1e-9)


def test_the_softmax_decides_the_ranking_and_not_the_raw_logit():
    logits = np.array([[5.0, 9.0], [1.0, 0.0]])  # class 0: the larger logit has the smaller probability
    value, per_class = mean_average_precision(logits, np.array([[1, -1, -1], [0, -1, -1]]))
    assert value == 100 and per_class.tolist() == [100, 100]


def test_a_large_dataset_is_worked_through_in_parts_with_the_same_result(monkeypatch):
    logits, labels = random_case(seed=2)
    expected = mean_average_precision(logits, labels)[1], accuracy(logits, labels[:, 0], (1, 2, 3))
    monkeypatch.setattr(metrics, "CHUNK_ELEMENTS", 130)  # two classes, or eighteen videos, at a time
    per_class, top = mean_average_precision(logits, labels)[1], accuracy(logits, labels[:, 0], (1, 2, 3))
    torch.testing.assert_close(per_class, expected[0], rtol=0, atol=0)
    assert top == expected[1]


def test_the_order_and_repetition_of_a_videos_labels_do_not_matter_to_the_map():
    logits, labels = random_case(seed=3)
    expected = mean_average_precision(logits, labels)[0]
    assert mean_average_precision(logits, labels[:, ::-1].copy())[0] == expected
    assert mean_average_precision(logits, np.concatenate([labels, labels], axis=1))[0] == expected


def test_a_class_that_no_video_has_is_left_out_with_a_warning_and_shifts_no_other():
    logits, labels = random_case(seed=4)
    keep = (labels != 2).all(axis=1)
    with pytest.warns(UserWarning, match="1 of 7 classes have no video"):
        value, per_class = mean_average_precision(logits[keep], labels[keep])
    assert per_class.isnan().nonzero().flatten().tolist() == [2]
    probabilities = torch.from_numpy(logits[keep]).softmax(dim=1).numpy()
    last = average_precision_by_definition(probabilities[:, 6], (labels[keep] == 6).any(axis=1))
    assert float(per_class[6]) == pytest.approx(last)
    assert value == pytest.approx(float(per_class[~per_class.isnan()].mean()))


def test_one_video_is_enough():
    with pytest.warns(UserWarning, match="2 of 3 classes"):
        assert mean_average_precision(np.array([[0.0, 1.0, 2.0]]), np.array([[1, -1, -1]]))[0] == 100
    assert accuracy(np.array([[0.0, 1.0, 2.0]]), np.array([1]), topk=(1, 2)) == [0, 100]


def test_any_kind_of_array_gives_the_same_figures():
    logits, labels = random_case(seed=5)
    logits = logits.astype(np.float16).astype(np.float32)  # so that half precision holds them exactly
    read_only = logits.copy()
    read_only.flags.writeable = False
    expected = mean_average_precision(logits, labels)[0], accuracy(logits, labels[:, 0])
    kinds = [torch.from_numpy(logits), torch.from_numpy(logits).half(), logits.astype(np.float64), read_only]
    if torch.cuda.is_available():
        kinds.append(torch.from_numpy(logits).cuda())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for other in kinds:
            assert mean_average_precision(other, torch.from_numpy(labels))[0] == expected[0]
            assert accuracy(other, torch.from_numpy(labels)[:, 0]) == expected[1]


def test_top_k_beyond_the_number_of_classes_is_always_right():
    logits, labels = random_case(seed=6, classes=3)
    assert accuracy(logits, labels[:, 0], topk=(3, 5)) == [100, 100]


def test_equal_logits_are_no_free_hits():
    target = torch.arange(10)
    assert accuracy(torch.zeros(10, 10), target, topk=(1, 5)) == [10, 50]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_logits_that_are_not_finite_are_refused_by_video(value):
    logits, labels = random_case(seed=7)
    logits[11, 3] = value
    with pytest.raises(ValueError, match=r"video 11 .*not finite"):
        mean_average_precision(logits, labels)
    with pytest.raises(ValueError, match=r"video 11 .*not finite"):
        accuracy(logits, labels[:, 0])


@pytest.mark.parametrize("label", [-2, 7])
def test_a_label_outside_the_classes_is_refused(label):
    logits, labels = random_case(seed=8)
    labels[5, 0] = label
    with pytest.raises(ValueError, match=f"a label is {label}; expected -1..6"):
        mean_average_precision(logits, labels)
    with pytest.raises(ValueError, match=f"a label is {label}; expected 0..6"):
        accuracy(logits, labels[:, 0])


def test_rows_that_do_not_fit_together_are_refused():
    logits, labels = random_case(seed=9)
    with pytest.raises(ValueError, match="59 rows of labels for 60 rows"):
        mean_average_precision(logits, labels[1:])
    with pytest.raises(ValueError, match="each of 60 videos"):
        accuracy(logits, labels[1:, 0])
    with pytest.raises(ValueError, match="at least one of each"):
        mean_average_precision(logits[:0], labels[:0])


def test_step_mean_averages_probabilities_and_not_logits():
    step_logits = torch.tensor([[[0.0, 0.0], [100.0, 0.0]]])  # [B=1, K=2, C=2]
    torch.testing.assert_close(step_mean(step_logits), torch.tensor([[0.75, 0.25]]))


@pytest.fixture
def by_head() -> dict[str, np.ndarray]:
    return {head: 3 * random_case(seed)[0] for seed, head in enumerate(HEADS)}


def test_multi_label_sets_report_the_published_names(by_head):
    labels = random_case(seed=0)[1]
    figures = evaluation_metrics(by_head, labels, "map")
    heads = ["mAP", "smAP", "Cat_mAP", "Global_mAP", "Local_mAP", "Temporal_mAP", "Spatial_mAP"]
    assert list(figures) == [*heads, "Prec@1", "Prec@5"]
    assert [figures["Prec@1"], figures["Prec@5"]] == accuracy(by_head["pred"], labels[:, 0])
    for name, head in zip(
        ("mAP", "Cat_mAP", "Global_mAP", "Local_mAP", "Temporal_mAP", "Spatial_mAP"), HEADS, strict=True
    ):
        assert figures[name] == mean_average_precision(by_head[head], labels)[0]
    softmaxed = torch.from_numpy(by_head["pred"]).softmax(dim=1)
    assert figures["smAP"] == mean_average_precision(softmaxed, labels)[0] != figures["mAP"]


def test_single_label_sets_report_the_published_names(by_head):
    labels = random_case(seed=0)[1]
    figures = evaluation_metrics(by_head, labels, "accuracy")
    assert set(figures) == {f"Acc_{head}@{k}" for head in HEADS for k in (1, 5)} | {"Prec@1", "Prec@5"}
    assert (figures["Prec@1"], figures["Prec@5"]) == (figures["Acc_pred@1"], figures["Acc_pred@5"])
    for head in HEADS:
        assert [figures[f"Acc_{head}@1"], figures[f"Acc_{head}@5"]] == accuracy(by_head[head], labels[:, 0])


def test_the_accuracies_of_training_are_those_of_evaluation(by_head):
    labels = random_case(seed=0)[1]
    logits = {head: torch.from_numpy(rows).requires_grad_() for head, rows in by_head.items()}
    found = training_accuracy(logits, torch.from_numpy(labels[:, 0]))
    expected = evaluation_metrics(by_head, labels, "accuracy")
    assert tuple(found) == TRAINING_ACCURACIES
    for name, value in found.items():
        assert not value.requires_grad and float(value) == pytest.approx(expected[name], abs=1e-4)


@pytest.mark.filterwarnings("error")
def test_an_evaluation_leaves_it_to_its_caller_to_say_that_classes_are_missing(by_head):
    labels = random_case(seed=0)[1]
    assert classes_without_video(labels, 7) == ""
    labels[labels == 4] = 3
    assert classes_without_video(labels, 7).startswith(f"1 of 7 classes have no video among these {len(labels)};")
    assert evaluation_metrics(by_head, labels, "map")["mAP"] == main_metric(by_head["pred"], labels, "map")


def test_an_evaluation_names_what_is_missing_or_unknown(by_head):
    labels = random_case(seed=0)[1]
    with pytest.raises(ValueError, match="unknown metric 'mAP'; choose one of map, accuracy"):
        evaluation_metrics(by_head, labels, "mAP")
    del by_head["local"]
    with pytest.raises(ValueError, match="no logits for local"):
        evaluation_metrics(by_head, labels, "map")
