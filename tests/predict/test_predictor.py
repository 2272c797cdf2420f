"""ops/predict/predictor.py: predictions in batches of any size, with early exit, and of broken videos."""

import functools
import re
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.early_exit import thresholds_for
from models.uni_adafocus import UniAdaFocus
from ops.early_exit.curve import criterion_values, exit_decisions
from ops.flops import exit_gflops
from ops.inference import prepare_for_inference
from ops.predict import predictor
from ops.predict.batches import SegmentReader, VideoBatch
from ops.predict.paths import FoundVideo, find
from ops.predict.predictor import Failure, Prediction, Predictor
from ops.video.extraction import extract_videos
from ops.video.frame_folders import FrameSettings
from ops.video.frames import VideoFile
from tests.shared import SMALL, thin_reference_model
from tests.videos import make_colourful_video

VIDEOS = 7


@pytest.fixture(scope="module")
def model() -> UniAdaFocus:
    return prepare_for_inference(thin_reference_model(4, **SMALL))


@pytest.fixture(scope="module")
def counted_once() -> Callable[[UniAdaFocus], list[float]]:
    """The GFLOPs of a model, which take a while to count."""
    return functools.cache(exit_gflops)


@pytest.fixture(autouse=True)
def quick_predictors(counted_once, monkeypatch):
    monkeypatch.setattr(predictor, "exit_gflops", counted_once)


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> list[FoundVideo]:
    """Videos of several lengths, one of a single frame."""
    folder = tmp_path_factory.mktemp("videos")
    for seed, frames in enumerate((20, 13, 1, 4, 40, 25, 20)):
        make_colourful_video(folder / f"{seed}.mp4", seed, frames)
    return find([str(folder)])


@pytest.fixture(scope="module")
def whole(model, videos) -> torch.Tensor:
    """The logits of all exits, from whole clips: [N, K, C]."""
    with ThreadPoolExecutor(1) as threads:
        batch = VideoBatch([SegmentReader(VideoFile(video.path), model) for video in videos], threads)
        segments = torch.arange(model.num_segments).expand(VIDEOS, -1)
        clips = batch.fetch(torch.arange(VIDEOS), segments).unflatten(0, (VIDEOS, -1))
    with torch.no_grad():
        return model(clips).step_logits[:, model.num_glance_segments - 1 :]


def check(outcomes: list[Prediction], logits: torch.Tensor, patches: list[int], model: UniAdaFocus) -> None:
    """The outcomes are those of the simulation, whose logits are [N, K, C]."""
    assert [outcome.patches for outcome in outcomes] == patches
    gflops = predictor.exit_gflops(model)
    for outcome, row, exit_taken in zip(outcomes, logits, patches, strict=True):
        probabilities = row[exit_taken].softmax(0)
        assert outcome.labels == probabilities.argsort(descending=True)[: len(outcome.labels)].tolist()
        np.testing.assert_allclose(outcome.probabilities, probabilities[outcome.labels], atol=1e-4)
        assert outcome.gflops == gflops[exit_taken] and outcome.seconds > 0


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_without_thresholds_each_video_gets_what_the_whole_model_says(model, videos, whole, batch_size):
    outcomes = list(Predictor(model, batch_size=batch_size, topk=3)(videos))
    assert [outcome.path for outcome in outcomes] == [video.path for video in videos]
    assert all(len(outcome.labels) == 3 for outcome in outcomes)
    check(outcomes, whole, [model.num_focus_segments] * VIDEOS, model)


@pytest.mark.parametrize("criterion", ["confidence", "entropy"])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_videos_leave_where_the_simulation_says(model, videos, whole, criterion, batch_size):
    thresholds = thresholds_for(criterion_values(whole, criterion).numpy(), [3, 2, 2])
    patches = exit_decisions(whole, thresholds, criterion).tolist()
    assert sorted(patches) == [0, 0, 0, 1, 1, 2, 2]
    outcomes = list(Predictor(model, thresholds, criterion, batch_size=batch_size)(videos))
    check(outcomes, whole, patches, model)


@pytest.mark.parametrize("wrong", [{"batch_size": 0}, {"batch_size": -1}, {"topk": 0}])
def test_arguments_that_make_no_sense_are_refused(model, wrong):
    with pytest.raises(ValueError, match="must be at least 1"):
        Predictor(model, **wrong)


def test_more_classes_than_there_are_cannot_be_told(model, videos):
    (outcome,) = Predictor(model, topk=99)(videos[:1])
    assert sorted(outcome.labels) == [0, 1, 2, 3] and sum(outcome.probabilities) == pytest.approx(1)


def damaged(path: Path, share: float, frames: int = 60) -> Path:
    """Zeros from a place in the file's pictures on."""
    make_colourful_video(path, 0, frames=frames)
    content = bytearray(path.read_bytes())
    start, end = content.index(b"mdat") + 4, content.index(b"moov") - 4
    middle = start + int((end - start) * share)
    content[middle:end] = bytes(end - middle)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_broken_files_are_reported_in_their_place_and_the_rest_goes_on(model, videos, whole, tmp_path, batch_size):
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "empty").mkdir()
    broken = [
        FoundVideo(tmp_path / "text.mp4"),
        FoundVideo(damaged(tmp_path / "damaged.mp4", 0.5)),
        FoundVideo(tmp_path / "absent.mp4"),
        FoundVideo(tmp_path / "empty", "image_{:05d}.jpg"),
    ]
    mixed = [broken[0], videos[0], broken[1], broken[2], videos[1], broken[3]]
    outcomes = list(Predictor(model, batch_size=batch_size)(mixed))
    assert [outcome.path for outcome in outcomes] == [video.path for video in mixed]
    reasons = [outcome.reason for outcome in outcomes if isinstance(outcome, Failure)]
    expected = ("cannot be read as a video", "damaged|short: ", "No such file", "holds no frame")
    assert all(re.search(part, why) for part, why in zip(expected, reasons, strict=True)), reasons
    check([outcomes[1], outcomes[4]], whole[:2], [2, 2], model)


@pytest.mark.skipif(not shutil.which("ffmpeg"), reason="needs the program ffmpeg")
def test_a_file_with_a_little_damage_gives_what_its_extraction_would(model, tmp_path):
    path = damaged(tmp_path / "a.mp4", 0.92)
    (outcome,) = Predictor(model)([FoundVideo(path)])
    with ThreadPoolExecutor(1) as threads:
        batch = VideoBatch([SegmentReader(VideoFile(path, decode_all=True), model)], threads)
        clip = batch.fetch(torch.tensor([0]), torch.arange(model.num_segments)[None])
    with torch.no_grad():
        expected = model(clip[None]).logits.softmax(1)[0]
    np.testing.assert_allclose(outcome.probabilities, expected[outcome.labels], atol=0.02)  # published JPEG


def test_a_batch_of_which_nothing_can_be_read_is_no_problem(model, tmp_path):
    (tmp_path / "text.mp4").write_text("no video")
    assert [type(outcome) for outcome in Predictor(model)([FoundVideo(tmp_path / "text.mp4")] * 2)] == [Failure] * 2


def test_replaced_frames_of_a_folder_are_counted(model, videos, tmp_path):
    shutil.copy(videos[0].path, tmp_path / "a.mp4")
    extract_videos(tmp_path, tmp_path / "frames", FrameSettings(height=80))
    for number in range(1, 8):
        (tmp_path / "frames" / "a" / f"image_{number:05d}.jpg").write_bytes(b"")
    (outcome,) = Predictor(model)([FoundVideo(tmp_path / "frames" / "a", "image_{:05d}.jpg")])
    assert outcome.replaced == 2  # of the six segments, those at frames 2 and 6


def test_what_is_drawn_and_what_cannot_be_stands_beside_the_prediction(model, videos):
    seen = []

    def illustrate(path, reader, inspection):
        seen.append((path, len(reader.video), inspection.exit))
        return ({"image": Path("a.png")}, "") if len(seen) == 1 else ({}, "no clip: torn")

    first, second, problem = Predictor(model, illustrate=illustrate)(videos[:2])
    assert first.files == {"image": Path("a.png")} and second.files == {}
    assert problem == Failure(videos[1].path, "no clip: torn")
    assert seen == [(videos[0].path, 20, 2), (videos[1].path, 13, 2)]


def test_pictures_show_the_exits_of_the_predictions(model, videos, whole, tmp_path):
    thresholds = thresholds_for(criterion_values(whole, "confidence").numpy(), [3, 2, 2])
    broken = [FoundVideo(damaged(tmp_path / "damaged.mp4", 0.5)), *videos]
    seen = []
    outcomes = list(Predictor(model, thresholds, illustrate=lambda *given: seen.append(given) or ({}, ""))(broken))
    assert isinstance(outcomes[0], Failure) and len({outcome.patches for outcome in outcomes[1:]}) == 3
    for outcome, (path, _, inspection) in zip(outcomes[1:], seen, strict=True):
        assert (path, inspection.exit) == (outcome.path, outcome.patches)
        final = inspection.step_probabilities[-1]
        np.testing.assert_allclose(final[outcome.labels], outcome.probabilities, atol=1e-6)


def test_a_video_that_leaves_early_has_only_its_glance_frames_read(model, videos, monkeypatch):
    asked, original = [], VideoFile.read
    monkeypatch.setattr(VideoFile, "read", lambda self, numbers: asked.extend(numbers) or original(self, numbers))
    monkeypatch.setattr(VideoFile, "decoded_with", lambda self, numbers, among: set(numbers))  # nothing on the way
    long = videos[4:5]  # 40 frames, so that every segment shows another
    list(Predictor(model, [-np.inf, np.inf, -np.inf])(long))
    assert len(asked) == model.num_glance_segments
    asked.clear()
    list(Predictor(model)(long))
    glance_and_focus = model.num_glance_segments + model.num_focus_segments
    assert len(set(asked)) == len(asked) <= glance_and_focus < model.num_segments
