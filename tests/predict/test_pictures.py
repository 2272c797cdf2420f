"""ops/predict/pictures.py: a picture and a clip for each video, under names of their own."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import pytest

from ops.predict.batches import SegmentReader, VideoBatch
from ops.predict.pictures import Illustrator, file_names
from ops.report.inspection import Inspection, inspect_videos
from ops.utils.errors import UserError
from ops.video.errors import VideoError
from ops.video.frames import FrameFolder, VideoFile
from tests.shared import write_frames
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
def readers(tmp_path, small_model) -> dict[Path, SegmentReader]:
    """A video file, and a folder of frames."""
    write_frames(tmp_path / "b", 8, seed=1)
    file = VideoFile(make_colourful_video(tmp_path / "a.mp4", 0, frames=12))
    folder = FrameFolder(tmp_path / "b", "image_{:05d}.jpg")
    return {
        tmp_path / "a.mp4": SegmentReader(file, small_model),
        tmp_path / "b": SegmentReader(folder, small_model),
    }


@pytest.fixture
def inspections(small_model, readers) -> list[Inspection]:
    with ThreadPoolExecutor(1) as threads:
        return inspect_videos(small_model.eval(), VideoBatch([*readers.values()], threads))


def test_each_video_gets_a_picture_and_a_clip_of_all_its_frames(tmp_path, readers, inspections):
    illustrate = Illustrator("abcd", [*readers], tmp_path / "new" / "images", tmp_path / "clips")
    for (path, reader), inspection, frames, rate in zip(readers.items(), inspections, (12, 8), (10, 25), strict=True):
        files, problem = illustrate(path, reader, inspection)
        image, clip = tmp_path / f"new/images/{path.stem}.png", tmp_path / f"clips/{path.stem}.mp4"
        assert (files, problem) == ({"image": image, "clip": clip}, "")
        assert cv2.imread(str(image)).shape[1] > 500
        clip = cv2.VideoCapture(str(clip))
        assert (clip.get(cv2.CAP_PROP_FRAME_COUNT), clip.get(cv2.CAP_PROP_FPS)) == (frames, rate)


def test_a_clip_that_cannot_be_read_to_its_end_is_reported_and_not_left(tmp_path, readers, inspections):
    def torn(numbers):
        raise VideoError("torn")
        yield

    path = tmp_path / "a.mp4"
    readers[path].video.read = torn
    illustrate = Illustrator("abcd", [*readers], None, tmp_path / "clips")
    assert illustrate(path, readers[path], inspections[0]) == ({}, "no clip: torn")
    assert list((tmp_path / "clips").iterdir()) == []


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be made"):
        Illustrator("abcd", [], tmp_path / "file", None)


def test_a_folder_of_clips_whose_name_is_not_utf_8_is_one_line_and_no_crash(tmp_path):
    with pytest.raises(UserError, match="bytes that are not UTF-8; choose another folder"):
        Illustrator("abcd", [], None, tmp_path / "caf\udce9")
