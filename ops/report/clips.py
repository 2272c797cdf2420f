"""A clip of what the network looked at in one video: the video itself with the moving patch."""

import os
import tempfile
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import torch
from matplotlib.font_manager import FontProperties, findfont
from PIL import Image, ImageDraw, ImageFont

from models.spatial_policy import actions_for_all_frames, actions_to_boxes
from ops.data.transforms import evaluation_view
from ops.report.inspection import Inspection
from ops.report.inspection_figure import PATCH
from ops.report.style import drawable, shortened
from ops.utils.errors import UserError
from ops.video.clip_writer import ClipWriter

SHORTEST_SIDE = 360  # smaller clips are enlarged, so that the text has room
UNSEEN = 0.6  # brightness of what lies outside the square that the network sees
PATCH_RGB = tuple(int(PATCH[place : place + 2], 16) for place in (1, 3, 5))
PALE_RGB = (235, 235, 235)
_FRACTION_BITS = 4  # of the coordinates that OpenCV draws at


def save_inspection_video(
    path: Path,
    frames: Iterable[np.ndarray],
    num_frames: int,
    frame_rate: float,
    inspection: Inspection,
    class_names: Sequence[str],
) -> None:
    """Write the clip as MP4 with the patch that the spatial policy chose for each moment, and what was known by then.

    Args:
        path: ends in .mp4; see `ClipWriter`.
        frames: all frames of the video in order (or every n-th of them), uint8 RGB [H, W, 3] as decoded, neither
            cropped nor resized, consumed one by one.
        num_frames: how many there are; frame k from 0 belongs to segment k * T // num_frames, and what comes after the
            last counts as the last.
        frame_rate: of the clip, frames per second.

    The box is thick in the segments that were looked at and thin elsewhere; in between it moves as the policy does.
    Below stand the likeliest class and its probability after the patches so far, over a time line with a mark for each.
    What the network never sees is dimmed. The file is there whole or not at all. Raises UserError where there is no
    frame or the clip cannot be written, VideoError where the encoder refuses it, and what `frames` raises.
    """
    overlay, written, writer = _Overlay(inspection, class_names), 0, None
    try:
        with tempfile.TemporaryDirectory(prefix=".", dir=path.parent) as folder:
            beside = os.path.join(folder, path.name)
            for written, frame in enumerate(frames, start=1):
                picture = overlay.draw(frame, min((written - 0.5) / num_frames, 1 - 1e-9))
                if written == 1:
                    size = picture.shape[1::-1]
                    writer = ClipWriter(Path(beside), frame_rate, size)
                writer.write(cv2.resize(picture, size))
            if writer is None:
                raise UserError(f"cannot write {path}: the video has no frame that can be read")
            writer.close()
            found = int(cv2.VideoCapture(beside).get(cv2.CAP_PROP_FRAME_COUNT))
            if found != written:  # OpenCV does not say when the disk is full
                raise UserError(f"cannot write {path}: {found} of {written} frames arrived; is the disk full?")
            os.replace(beside, path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        if writer is not None:
            writer.discard()


class _Overlay:
    """Draws on the frames of one video."""

    def __init__(self, inspection: Inspection, class_names: Sequence[str]) -> None:
        self.inspection, self.class_names = inspection, class_names
        self.input_size = inspection.glance_frames.shape[1]
        actions = actions_for_all_frames(torch.from_numpy(inspection.actions)[None], inspection.num_segments)[0]
        corner, side = actions_to_boxes(actions, self.input_size)  # (y, x)
        self.boxes = torch.cat([corner.flip(-1), (corner + side).flip(-1)], dim=-1).numpy()  # [T, 4]
        self._strip = lru_cache(maxsize=1)(self._new_strip)

    def draw(self, frame: np.ndarray, moment: float) -> np.ndarray:
        """A frame at its place in the video, 0..1 (1 left out) -> RGB with even sides, larger by the strip below."""
        height, width = frame.shape[:2]
        scale = max(1.0, SHORTEST_SIDE / min(height, width))
        width, height = (round(side * scale) // 2 * 2 for side in (width, height))
        picture = cv2.resize(frame, (width, height)) if scale > 1 else frame[:height, :width].copy()
        (left, top), (right, bottom) = self._to_picture(picture, [0, 0, self.input_size, self.input_size]).clip(0)
        seen = picture[top:bottom, left:right].copy()
        np.multiply(picture, UNSEEN, out=picture, casting="unsafe")
        picture[top:bottom, left:right] = seen

        segments = self.inspection.num_segments
        place = np.clip(moment * segments - 0.5, 0, segments - 1)
        box = [np.interp(place, np.arange(segments), self.boxes[:, edge]) for edge in range(4)]
        corners = self._to_picture(picture, box, 2**_FRACTION_BITS).tolist()
        unit, layers = max(1, round(min(height, width) / 300)), [(PALE_RGB, 1)]
        if int(moment * segments) in self.inspection.focus_segments:
            layers = [((255, 255, 255), 4), (PATCH_RGB, 2)]
        for colour, thickness in layers:
            cv2.rectangle(picture, *corners, colour, thickness * unit, cv2.LINE_AA, _FRACTION_BITS)

        # Below, white text on black, and the time line with what has passed of it.
        patches = int((self.inspection.focus_segments <= int(moment * segments)).sum())
        strip = self._strip(width, height, patches).copy()
        strip[: _line_height(height), : round(moment * width)] |= 96
        return np.concatenate([picture, strip])

    def _to_picture(self, picture: np.ndarray, box: Sequence[float], parts: int = 1) -> np.ndarray:
        """Left, top, right, bottom in pixels of what the network sees -> two corners in parts of the picture's."""
        view = evaluation_view(picture.shape[1], picture.shape[0], input_size=self.input_size)
        corners = (np.reshape(box, (2, 2)) + view.corner) * np.divide(picture.shape[1::-1], view.size)
        return (corners * parts).round().astype(int)

    def _new_strip(self, width: int, height: int, patches: int) -> np.ndarray:
        inspection = self.inspection
        line, size = _line_height(height), max(14, min(height, width) // 22)
        image = Image.new("RGB", (width, 2 * ((line + 2 * size) // 2)), (0, 0, 0))
        draw = ImageDraw.Draw(image)
        draw.rectangle((0, 0, width, line - 1), fill=(60, 60, 60))
        for segment in inspection.focus_segments:
            middle = (segment + 0.5) / inspection.num_segments * width
            draw.rectangle((middle - line / 3, 0, middle + line / 3, line - 1), fill=PATCH_RGB)
        font = ImageFont.truetype(findfont(FontProperties()), size)
        probabilities = inspection.step_probabilities[patches]
        likeliest = int(probabilities.argmax())
        after = f"{patches} of {inspection.num_focus_segments} patches" if patches else "glance"
        if patches == inspection.exit < inspection.num_focus_segments:
            after += ", left"
        room = width - draw.textlength(after, font) - 3 * size
        chance = f" {probabilities[likeliest]:.2f}"
        name = drawable(self.class_names[likeliest])
        name = shortened(name, lambda text: draw.textlength(text + chance, font) <= room)
        baseline = line + 1.35 * size
        draw.text((size / 2, baseline), name + chance, fill=(255, 255, 255), font=font, anchor="ls")
        draw.text((width - size / 2, baseline), after, fill=(190, 190, 190), font=font, anchor="rs")
        return np.array(image)


def _line_height(height: int) -> int:
    return max(4, height // 90)
