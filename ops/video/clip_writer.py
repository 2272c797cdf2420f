"""MP4 files that browsers play, where the encoder is there."""

import errno
import os
import subprocess
from functools import cache
from pathlib import Path

import cv2
import numpy as np

from ops.video import ffmpeg
from ops.video.errors import VideoError

# What ffmpeg may say of the place that it is to write to, rather than of the pictures.
CANNOT_WRITE = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EACCES, errno.EROFS, errno.ENOENT)
NOT_FOR_BROWSERS = "clips are MPEG-4 Part 2, which browsers do not play: install ffmpeg with libx264 for H.264"


@cache
def makes_h264() -> bool:
    """Whether the program ffmpeg is there and has the encoder."""
    if not ffmpeg.is_installed():
        return False
    source = ["-f", "lavfi", "-i", "color=size=64x64:duration=0.1"]
    command = ["ffmpeg", "-nostdin", "-v", "quiet", *source, "-c:v", "libx264", "-f", "null", "-"]
    return subprocess.run(command, stdin=subprocess.DEVNULL).returncode == 0


class ClipWriter:
    """Writes pictures uint8 RGB [H, W, 3] of one size, with even sides, to an MP4 file.

    Raises OSError where that cannot be written, VideoError where the encoder refuses the pictures.
    """

    def __init__(self, path: Path, frame_rate: float, size: tuple[int, int]) -> None:
        """size: (width, height)."""
        self._process: subprocess.Popen | None = None
        if makes_h264():
            width, height = size
            source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", f"{frame_rate:.12g}"]
            target = ["-c:v", "libx264", "-pix_fmt", "yuv420p", "-crf", "18", "-movflags", "+faststart"]
            command = ["ffmpeg", "-v", "error", *source, "-i", "pipe:0", *target, ffmpeg.source_of(path)]
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
            )
            return
        self._writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), frame_rate, size)
        if not self._writer.isOpened():
            raise OSError("this OpenCV makes no MP4; does the name end in .mp4?")

    def write(self, picture: np.ndarray) -> None:
        """Append a picture."""
        if self._process is None:
            self._writer.write(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
            return
        try:
            self._process.stdin.write(np.ascontiguousarray(picture).data)
        except BrokenPipeError:
            self.close()

    def close(self) -> None:
        """End the file."""
        if self._process is None:
            self._writer.release()
            return
        said = self._process.communicate()[1].decode(errors="replace").strip()
        if self._process.returncode:
            if failed := next((code for code in CANNOT_WRITE if os.strerror(code) in said), None):
                raise OSError(failed, os.strerror(failed))
            reason = said.splitlines()[0] if said else f"exit code {self._process.returncode}"
            raise VideoError(f"ffmpeg does not encode it ({reason})")

    def discard(self) -> None:
        """Give up an unfinished file."""
        if self._process is None:
            self._writer.release()
        elif self._process.poll() is None:
            self._process.kill()
            self._process.communicate()
