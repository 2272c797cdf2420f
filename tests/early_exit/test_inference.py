"""ops/early_exit/inference.py: early exit gives what the simulation says, and computes no more than it takes."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.early_exit import thresholds_for
from models.uni_adafocus import UniAdaFocus
from ops.data.sources import ClipFrames
from ops.early_exit.curve import CRITERIA, criterion_values, exit_decisions
from ops.early_exit.inference import EarlyExitInference, joined
from ops.inference import prepare_for_inference
from ops.report.inspection import InspectionTrace, inspect_videos
from ops.utils.errors import UserError
from tests.shared import SMALL, reference_weights
from tests.thin import thin_networks

VIDEOS = 9
SIZES = {
    "small": SMALL,
    "many patches": SMALL | {"num_segments": 8, "num_glance_segments": 2, "num_focus_segments": 5},
    "one patch": SMALL | {"num_focus_segments": 1, "num_glance_segments": 1, "input_size": 96, "patch_size": 64},
}


class Case:
    """A model, clips, and the simulation: the logits of all exits [N, K, C] from running everything."""

    def __init__(self, sizes: dict[str, int]) -> None:
        with thin_networks():
            model = UniAdaFocus(4, **sizes)
        model.load_state_dict(reference_weights(model))
        self.plain = model.eval()
        self.model = prepare_for_inference(model)
        generator = torch.Generator().manual_seed(1)
        coarse = torch.rand(VIDEOS * model.num_segments, 3, 4, 4, generator=generator)
        frames = torch.nn.functional.interpolate(255 * coarse, size=model.input_size, mode="bilinear")
        self.clips = frames.to(torch.uint8).unflatten(0, (VIDEOS, -1))
        with torch.no_grad():
            output = self.model(self.clips)
        self.logits = output.step_logits[:, model.num_glance_segments - 1 :]
        self.focus_indices = output.focus_indices
        self.exits = model.num_focus_segments + 1

    def thresholds(self, counts: list[int], criterion: str = "confidence") -> np.ndarray:
        """Thresholds with which so many videos leave at each exit."""
        return thresholds_for(criterion_values(self.logits, criterion).numpy(), counts)


@pytest.fixture(scope="module")
def cases() -> dict[str, Case]:
    return {name: Case(sizes) for name, sizes in SIZES.items()}


class Looks(ClipFrames):
    """Remembers which frames were fetched."""

    def __init__(self, clips: Tensor) -> None:
        super().__init__(clips)
        self.seen: list[tuple[int, int]] = []

    def fetch(self, videos: Tensor, segments: Tensor) -> Tensor:
        rows = zip(videos.tolist(), segments.tolist(), strict=True)
        self.seen += [(video, segment) for video, row in rows for segment in row]
        return super().fetch(videos, segments)


def spread(videos: int, exits: int) -> list[int]:
    """As many videos for each exit as for any other, and the rest for the last."""
    counts = [videos // exits] * exits
    counts[-1] += videos - sum(counts)
    return counts


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("sizes", SIZES)
def test_exits_and_predictions_are_those_of_the_simulation(cases, sizes, criterion):
    case = cases[sizes]
    thresholds = case.thresholds(spread(VIDEOS, case.exits), criterion)
    expected = exit_decisions(case.logits, thresholds, criterion)
    assert len(expected.unique()) == case.exits
    for batch, chunk in ((1, 1), (4, 1), (VIDEOS, 2), (VIDEOS, 100)):
        inference = EarlyExitInference(case.model, thresholds, criterion, chunk)
        result = joined([inference(clips) for clips in case.clips.split(batch)])
        assert result.exits.tolist() == expected.tolist()
        torch.testing.assert_close(result.logits, case.logits[range(VIDEOS), expected], rtol=0, atol=1e-4)


@pytest.mark.parametrize("chunk", [1, 2])
def test_with_a_trace_the_same_run_shows_what_was_looked_at(cases, chunk):
    case = cases["many patches"]
    inference = EarlyExitInference(case.model, case.thresholds([3, 2, 1, 1, 1, 1]), "confidence", chunk)
    plain, trace, source = inference(case.clips), InspectionTrace(case.model), Looks(case.clips)
    result = inference(source, trace)
    assert torch.equal(result.exits, plain.exits) and torch.equal(result.patches, plain.patches)
    torch.testing.assert_close(result.logits, plain.logits, rtol=0, atol=1e-4)
    found, whole = trace.inspections(), inspect_videos(case.model, ClipFrames(case.clips))
    for video, patches in enumerate(result.patches.tolist()):
        assert found[video].exit == patches == len(found[video].patches) == len(found[video].boxes)
        for name in ("focus_segments", "focus_frames"):
            assert np.array_equal(getattr(found[video], name), getattr(whole[video], name)[:patches])
        for name in ("boxes", "glance_frames", "frame_weights", "actions"):
            expected = getattr(whole[video], name)
            np.testing.assert_allclose(
                getattr(found[video], name), expected[: len(getattr(found[video], name))], atol=1e-3
            )
        np.testing.assert_allclose(
            found[video].step_probabilities, whole[video].step_probabilities[: patches + 1], atol=1e-4
        )
        left_with = result.logits[video].softmax(0)
        np.testing.assert_allclose(found[video].step_probabilities[result.exits[video]], left_with, atol=1e-6)
    glances = [(video, segment) for video in range(VIDEOS) for segment in (1, 5)]
    focus = [(video, int(segment)) for video in range(VIDEOS) for segment in found[video].focus_segments]
    assert sorted(source.seen) == sorted(glances + focus)


def test_when_all_are_sure_after_the_glance_nothing_else_is_computed(cases, monkeypatch):
    case = cases["small"]
    for part in ("decide", "focus_on"):
        monkeypatch.setattr(type(case.model), part, lambda *arguments: pytest.fail("computed in vain"))
    source = Looks(case.clips)
    result = EarlyExitInference(case.model, case.thresholds([VIDEOS, 0, 0]), "confidence")(source)
    assert result.exits.tolist() == result.patches.tolist() == [0] * VIDEOS
    assert sorted(source.seen) == [(video, segment) for video in range(VIDEOS) for segment in (1, 3, 5)]


def test_without_exits_all_patches_are_one_chunk(cases, monkeypatch):
    case = cases["many patches"]
    sizes = []
    focus_on = UniAdaFocus.focus_on
    monkeypatch.setattr(UniAdaFocus, "focus_on", lambda *given: sizes.append(len(given[1])) or focus_on(*given))
    result = EarlyExitInference(case.model, [math.inf] * case.exits, "confidence")(case.clips)
    assert result.exits.tolist() == result.patches.tolist() == [5] * VIDEOS
    assert sizes == [5 * VIDEOS]


def test_only_frames_that_are_looked_at_are_fetched(cases):
    case = cases["many patches"]
    source = Looks(case.clips)
    result = EarlyExitInference(case.model, case.thresholds([3, 2, 1, 1, 1, 1]), "confidence")(source)
    glances = [(video, segment) for video in range(VIDEOS) for segment in (1, 5)]
    patches = [
        (video, int(segment)) for video in range(VIDEOS) for segment in case.focus_indices[video, : result.exits[video]]
    ]
    assert sorted(source.seen) == sorted(glances + patches)


def test_with_several_patches_between_checks_more_are_computed_and_exits_stay(cases):
    case = cases["many patches"]
    thresholds = case.thresholds([3, 2, 1, 1, 1, 1])
    one, two = (EarlyExitInference(case.model, thresholds, "confidence", chunk)(case.clips) for chunk in (1, 2))
    assert torch.equal(one.patches, one.exits) and torch.equal(two.exits, one.exits)
    assert two.patches.tolist() == [min(5, number + number % 2) for number in one.exits.tolist()]


def test_where_no_video_may_leave_after_a_patch_the_next_is_in_the_same_chunk(cases, monkeypatch):
    case = cases["many patches"]
    sizes = []
    focus_on = UniAdaFocus.focus_on
    monkeypatch.setattr(UniAdaFocus, "focus_on", lambda *given: sizes.append(given[2].shape[1]) or focus_on(*given))
    never, now = math.inf, 1e9  # no video is that sure
    EarlyExitInference(case.model, [now, now, never, never, now, never], "confidence")(case.clips)
    assert sizes == [1, 3, 1]


def test_the_last_exit_takes_all_whatever_its_threshold(cases):
    case = cases["small"]
    result = EarlyExitInference(case.model, [1e9, 1e9, 1e9], "confidence")(case.clips)
    assert result.exits.tolist() == [2] * VIDEOS


def test_a_video_right_at_the_threshold_leaves(cases):
    case, clip = cases["small"], cases["small"].clips[:1]
    sure = EarlyExitInference(case.model, [-math.inf] * 3, "confidence")(clip)
    value = float(criterion_values(sure.logits, "confidence"))
    above = float(np.nextafter(np.float32(value), np.float32(math.inf)))
    for threshold, exit_number in ((value, 0), (above, 2)):
        result = EarlyExitInference(case.model, [threshold, math.inf, math.inf], "confidence")(clip)
        assert result.exits.tolist() == [exit_number]


def test_a_model_that_is_not_prepared_serves_too(cases):
    thresholds = cases["small"].thresholds([3, 3, 3])
    result = EarlyExitInference(cases["small"].plain, thresholds, "confidence")(cases["small"].clips)
    assert result.exits.tolist() == exit_decisions(cases["small"].logits, thresholds, "confidence").tolist()


def test_logits_that_are_not_finite_are_an_error(cases, small_model):
    torch.nn.init.constant_(small_model.classifier.global_classifiers[-1][-1].bias, math.nan)
    with pytest.raises(UserError, match="not finite"):
        EarlyExitInference(small_model.eval(), [0.0, 0.0, 0.0], "confidence")(cases["small"].clips[:1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([0.0, 0.0], "confidence"), "no thresholds for the 3 exits"),
        (([0.0, math.nan, 0.0], "confidence"), "no thresholds for the 3 exits"),
        (([0.0, 0.0, 0.0], "margin"), "unknown criterion 'margin'; choose one of confidence, entropy"),
        (([0.0, 0.0, 0.0], "entropy", 0), "focus_chunk must be at least 1, not 0"),
    ],
)
def test_thresholds_of_another_model_and_other_mistakes_are_refused(small_model, arguments, message):
    with pytest.raises(ValueError, match=message):
        EarlyExitInference(small_model.eval(), *arguments)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda clips: torch.cat([clips, clips], dim=1),
        lambda clips: clips[..., :-1],
        lambda clips: clips[:0],
        lambda clips: clips.long(),
        lambda clips: clips[0],
    ],
)
def test_clips_that_the_model_would_refuse_are_refused(cases, wrong):
    case = cases["many patches"]
    for runs in (case.model, EarlyExitInference(case.model, case.thresholds([3, 2, 1, 1, 1, 1]), "confidence")):
        with pytest.raises(ValueError, match="frames must be "):
            runs(wrong(case.clips))


def test_a_model_in_training_mode_is_refused(small_model):
    with pytest.raises(ValueError, match="training mode"):
        EarlyExitInference(small_model.train(), [0.0, 0.0, 0.0], "confidence")(
            torch.zeros(1, 6, 3, 64, 64, dtype=torch.uint8)
        )
