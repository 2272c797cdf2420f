"""ops/report/clips.py: files that hold what the inspection says, whole or not at all."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from matplotlib.colors import to_hex
from PIL.ImageDraw import ImageDraw

from ops.report.clips import PATCH_RGB, save_inspection_video
from ops.report.inspection_figure import PATCH, inspection_figure
from ops.report.style import save_png
from ops.utils.errors import UserError
from tests.inspections import make_inspection

NAMES = ["running", "jumping", "diving", "rowing", "skiing", "fencing"]
GREY = 128


def grey_frames(count: int, height: int = 360, width: int = 480) -> list[np.ndarray]:
    return [np.full((height, width, 3), GREY, np.uint8) for _ in range(count)]


def read_clip(path: Path) -> np.ndarray:
    """All frames of a video, RGB."""
    reader, frames = cv2.VideoCapture(str(path)), []
    while (frame := reader.read()[1]) is not None:
        frames.append(frame[..., ::-1])
    return np.stack(frames)


def orange(frame: np.ndarray) -> np.ndarray:
    """Which pixels have the colour of a patch that was looked at, but for the losses of the codec."""
    return (np.abs(frame.astype(int) - PATCH_RGB) < 70).all(-1)


def test_a_picture_is_a_png_of_printable_width(tmp_path):
    figure = inspection_figure(make_inspection(), title="a", class_names=NAMES, truth=[1], times=range(16))
    save_png(tmp_path / "a.png", figure)
    header = (tmp_path / "a.png").read_bytes()[:24]
    assert header.startswith(b"\x89PNG") and int.from_bytes(header[16:20], "big") == 2160  # 7.2 inches, 300 dpi
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_a_picture_that_cannot_be_written_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"cannot write .*nowhere/a.png: No such file or directory"):
        save_png(tmp_path / "nowhere" / "a.png", inspection_figure(make_inspection(), title="a", class_names=NAMES))


def test_the_box_is_strong_where_a_patch_was_looked_at_and_at_its_place(tmp_path):
    inspection = make_inspection()  # patches in segments 2, 5, 8, 11 of 16
    save_inspection_video(tmp_path / "a.mp4", iter(grey_frames(16)), 16, 8.0, inspection, class_names=NAMES)
    clip = read_clip(tmp_path / "a.mp4")
    assert len(clip) == 16 and clip.shape[2] == 480 and clip.shape[1] > 360
    assert to_hex(np.divide(PATCH_RGB, 255)) == PATCH.lower()
    picture, time_line = clip[:, :350], clip[:, 362]
    marked = [segment for segment in range(16) if orange(picture[segment]).sum() > 200]
    assert marked == inspection.focus_segments.tolist()
    places = (480 * (inspection.focus_segments + 0.5) / 16).astype(int)
    assert orange(time_line[0])[places].all() and orange(time_line[0]).sum() < 4 * 8
    passed, to_come = (time_line[12, begin : begin + 20].mean() for begin in (20, 440))
    assert passed - 40 > to_come > 30

    # The network sees the middle 224 of 256 parts of the short side, here 315 of 360 pixels from (82, 22).
    scale = 360 / round(64 * 256 / 224)
    left_edge, top_edge = (480 - 64 * scale) / 2, (360 - 64 * scale) / 2
    for segment in inspection.focus_segments:
        place = segment * 8 / 16 - 0.25  # among the actions of the 8 glance frames, in the middle of the segment
        y, x, height, width = (np.interp(place, np.arange(8), inspection.actions[:, side]) for side in range(4))
        low = 64 * 96 / 224
        height, width = low + height * (64 - low), low + width * (64 - low)
        box = np.array([y * (64 - height), x * (64 - width), height, width]) * scale
        expected = (top_edge + box[0], left_edge + box[1], top_edge + box[0] + box[2], left_edge + box[1] + box[3])
        rows, columns = np.nonzero(orange(picture[segment]))
        found = (rows.min(), columns.min(), rows.max(), columns.max())
        np.testing.assert_allclose(found, expected, atol=5)


def test_what_the_network_does_not_see_is_dimmed(tmp_path):
    save_inspection_video(
        tmp_path / "a.mp4", grey_frames(4), 4, 8.0, make_inspection(looked_at=0), class_names=NAMES
    )  # fmt: skip
    frame = read_clip(tmp_path / "a.mp4")[0]
    assert frame[180, 10:70].mean() == pytest.approx(0.6 * GREY, abs=8)
    assert frame[180, 235:245].mean() > 0.9 * GREY


def test_the_text_says_what_was_known_by_then_and_changes_with_each_patch_only(tmp_path, monkeypatch):
    inspection, written, text = make_inspection(looked_at=3), [], ImageDraw.text
    monkeypatch.setattr(ImageDraw, "text", lambda *given, **how: written.append(given[2]) or text(*given, **how))
    save_inspection_video(tmp_path / "a.mp4", grey_frames(64), 64, 8.0, inspection, class_names=NAMES)
    answers = [f"{NAMES[each.argmax()]} {each.max():.2f}" for each in inspection.step_probabilities]
    assert written[::2] == answers
    assert written[1::2] == ["glance", "1 of 4 patches", "2 of 4 patches", "3 of 4 patches, left"]
    strips = read_clip(tmp_path / "a.mp4")[:, 372:].astype(int)
    changes = [n for n in range(1, 64) if (np.abs(strips[n] - strips[n - 1]) > 60).any()]
    assert changes == [4 * segment for segment in (2, 5, 8)]


@pytest.mark.parametrize(("height", "width"), [(64, 64), (361, 481), (500, 200)])
def test_clips_of_any_size_have_even_sides_and_room_for_the_text(height, width, tmp_path):
    frames = [np.uint8(frame * (1.5, 1, 0.5)) for frame in grey_frames(3, height, width)]
    save_inspection_video(
        tmp_path / "a.mp4", frames, 3, 8.0, make_inspection(), class_names=["日本 $" * 30] * 6
    )  # fmt: skip
    clip = read_clip(tmp_path / "a.mp4")
    _, tall, wide, _ = clip.shape
    red, green, blue = np.median(clip[0, :360], axis=(0, 1))
    assert red > 1.2 * green > 1.8 * blue
    assert tall % 2 == wide % 2 == 0 and wide >= 359
    assert abs(wide / width - max(1, 360 / min(height, width))) < 0.02


def test_more_frames_than_were_announced_belong_to_the_end(tmp_path):
    save_inspection_video(tmp_path / "a.mp4", grey_frames(6), 4, 8.0, make_inspection(), class_names=NAMES)
    assert len(read_clip(tmp_path / "a.mp4")) == 6


def broken_off():
    yield from grey_frames(2)
    raise UserError("frame 3 cannot be read")


@pytest.mark.parametrize(
    ("frames", "message"), [(broken_off(), "frame 3 cannot be read"), ([], "no frame that can be read")]
)
def test_a_clip_is_there_whole_or_not_at_all(frames, message, tmp_path):
    (tmp_path / "a.mp4").write_text("an earlier one")
    with pytest.raises(UserError, match=message):
        save_inspection_video(tmp_path / "a.mp4", frames, 4, 8.0, make_inspection(), class_names=NAMES)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["an earlier one"]


def test_a_clip_that_cannot_be_written_is_one_line(tmp_path, capfd):
    with pytest.raises(UserError, match=r"cannot write .*nowhere/a.mp4: No such file or directory"):
        save_inspection_video(
            tmp_path / "nowhere" / "a.mp4", grey_frames(2), 2, 8.0, make_inspection(), class_names=NAMES
        )
    assert capfd.readouterr().err == ""
