"""ops/predict/pictures.py: a picture and a clip for each video, under names of their own."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import pytest

from ops.early_exit.inference import EarlyExitInference
from ops.predict.batches import BrokenVideos, VideoBatch
from ops.predict.pictures import Illustrator, file_names
from ops.utils.errors import UserError
from ops.video.errors import VideoError
from ops.video.frames import FrameFolder, VideoFile
from tests.conftest import write_frames
from tests.videos import make_colourful_video


def test_names_are_plain_short_and_distinct():
    videos = ["x/a.mp4", "x/a.avi", "x/A.mkv", "x/y/a b'\n\".mp4", "x/.mp4", "x/" + 300 * "z", "x/\udce9.mp4"]
    names = list(file_names([Path(video) for video in videos]).values())
    assert names[:4] == ["a", "a_2", "A_3", "y_a_b"]
    assert len(set(names)) == len(videos) and all(name.encode() and len(name) <= 100 for name in names)
    assert "/" not in "".join(names)


def test_names_do_not_repeat_the_folder_common_to_all():
    videos = [Path("/data/clips/one/a.mp4"), Path("/data/clips/two/a.mp4")]
    assert file_names(videos) == {videos[0]: "one_a", videos[1]: "two_a"}
    assert file_names(videos[:1]) == {videos[0]: "a"}


@pytest.fixture
def batch(tmp_path, small_model):
    """A video file, and a folder of frames."""
    write_frames(tmp_path / "b", 8, seed=1)
    videos = [
        VideoFile(make_colourful_video(tmp_path / "a.mp4", 0, frames=12)),
        FrameFolder(tmp_path / "b", "image_{:05d}.jpg"),
    ]
    with ThreadPoolExecutor(1) as threads:
        yield VideoBatch(videos, small_model.eval(), threads)


def test_each_video_gets_a_picture_and_a_clip_of_all_its_frames(tmp_path, small_model, batch):
    paths = [tmp_path / "a.mp4", tmp_path / "b"]
    illustrate = Illustrator("abcd", paths, tmp_path / "new" / "images", tmp_path / "clips")
    answer = EarlyExitInference(small_model, [float("inf")] * 3, "confidence")(batch)
    written = illustrate(small_model, batch, paths, answer)
    assert written == [
        ({"image": tmp_path / f"new/images/{name}.png", "clip": tmp_path / f"clips/{name}.mp4"}, "") for name in "ab"
    ]
    for (files, _), frames, rate in zip(written, (12, 8), (10, 25), strict=True):
        assert cv2.imread(str(files["image"])).shape[1] > 500
        clip = cv2.VideoCapture(str(files["clip"]))
        assert (clip.get(cv2.CAP_PROP_FRAME_COUNT), clip.get(cv2.CAP_PROP_FPS)) == (frames, rate)


def test_a_clip_that_cannot_be_read_to_its_end_is_reported_and_not_left(tmp_path, small_model, batch):
    answer = EarlyExitInference(small_model, [float("inf")] * 3, "confidence")(batch)

    def torn(numbers):
        raise VideoError("torn")
        yield

    batch.videos[0].read = torn
    paths = [tmp_path / "a.mp4", tmp_path / "b"]
    (files, problem), (_, fine) = Illustrator("abcd", paths, None, tmp_path / "clips")(
        small_model, batch, paths, answer
    )
    assert (files, problem, fine) == ({}, "no clip: torn", "")
    assert [path.name for path in (tmp_path / "clips").iterdir()] == ["b.mp4"]


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path, small_model):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be made"):
        Illustrator("abcd", [], tmp_path / "file", None)


def test_a_frame_that_cannot_be_read_a_second_time_costs_the_pictures_only(tmp_path, small_model, batch, monkeypatch):
    def broken(*arguments):
        raise BrokenVideos({0: "torn"})

    monkeypatch.setattr("ops.predict.pictures.inspect_videos", broken)
    answer = EarlyExitInference(small_model, [float("inf")] * 3, "confidence")(batch)
    paths = [tmp_path / "a.mp4", tmp_path / "b"]
    illustrate = Illustrator("abcd", paths, tmp_path / "images", None)
    assert illustrate(small_model, batch, paths, answer) == [({}, "no picture: torn")] * 2
