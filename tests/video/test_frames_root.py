"""ops/video/frames_root.py: how much a run will write."""

from ops.video.frame_folders import FrameSettings
from ops.video.frames_root import estimate
from tests.videos import make_video


def test_the_estimate_follows_rate_height_and_quality(tmp_path):
    videos = [make_video(tmp_path / f"{name}.mp4", 60, 10) for name in "ab"]
    settings = FrameSettings(height=720, frame_rate=5, jpeg_quality=40, backend="opencv")
    found = estimate(videos, tmp_path / "frames", settings)
    assert (found.videos, found.frames, found.bytes) == (2, 60, 60 * 25e3 * 4)
