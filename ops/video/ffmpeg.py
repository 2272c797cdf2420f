"""The program ffmpeg: the published command, what it promised, and single frames of a video.

The published frames were made by `ffmpeg -i VIDEO -vf scale=-1:360 [-r RATE] image_%05d.jpg`. That is what runs here:
scaling, JPEG quality and timing are ffmpeg's own.
"""

import errno
import json
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from ops.video.errors import VideoError

_DURATION = re.compile(r"Duration: (\d+):(\d\d):(\d\d(?:\.\d+)?)")
_OUTPUT_RATE = re.compile(r"Video: mjpeg.*?, (\d+(?:\.\d+)?) fps", re.DOTALL)
_FILE_NAME = re.compile(r"^file:.*: (?=[^:]+$)", re.DOTALL)  # before the reason
_PROBLEM = re.compile(r"^(?:\[[^\]]+ @ [^\]]+\] )?\[(?:error|fatal|panic)\] (.+)", re.MULTILINE)


@dataclass(frozen=True)
class Outcome:
    """What became of one run of the published command."""

    problem: str  # ffmpeg's first error line; empty where it wrote none and ended well
    expected: float  # frames by the file's stated duration, which may be that of the sound; 0 where it states none
    rate: float  # frames per second written; 0 where that is not known


def is_installed() -> bool:
    """Whether the programs ffmpeg and ffprobe are there."""
    return bool(shutil.which("ffmpeg") and shutil.which("ffprobe"))


def source_of(video: Path) -> str:
    """A file as ffmpeg's input: no name is taken for an option or a protocol."""
    return f"file:{os.path.abspath(video)}"


def published_command(video: Path, height: int, frame_rate: float | None, pattern: str, threads: int = 0) -> list[str]:
    """The arguments that write frames into the working directory; no shell is involved.

    pattern: printf-style name of the frame files. threads: of the decoder, 0 leaves the choice to it.
    """
    rate = ["-r", f"{frame_rate:.12g}"] if frame_rate else []
    decoder = ["-threads", str(threads)] if threads else []
    shown = ["-nostdin", "-hide_banner", "-nostats", "-loglevel", "level+info"]
    return ["ffmpeg", *shown, *decoder, "-i", source_of(video), "-vf", f"scale=-1:{height}", *rate, f"./{pattern}"]


def run_published(command: Sequence[str], folder: Path) -> Outcome:
    """Run the command in `folder`. Raises OSError where the disk is full; other problems are in the outcome."""
    # A session of its own: Ctrl-C reaches this process alone, which then ends ffmpeg and tidies up.
    result = subprocess.run(
        command,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    said = result.stderr.decode(errors="replace")
    if os.strerror(errno.ENOSPC) in said:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))
    problems = _PROBLEM.findall(said)
    problem = problems[-1 if result.returncode else 0] if problems else ""
    if result.returncode and not problem:
        problem = f"ffmpeg ended with exit code {result.returncode}"
    stated, rate = _DURATION.search(said), _OUTPUT_RATE.search(said)
    rate = float(rate[1]) if rate else 0.0
    seconds = int(stated[1]) * 3600 + int(stated[2]) * 60 + float(stated[3]) if stated else 0.0
    return Outcome(problem, seconds * rate, rate)


def promised_frames(video: Path, outcome: Outcome, frames: int) -> float:
    """How many frames an intact file would have given, where `frames` were made.

    Nothing is opened where all went well. Else ffprobe counts the packets of an AVI file, as ffmpeg does not notice
    that some are missing, and says how long the video track is; that matters only where ffmpeg met a problem, as the
    last frame of an intact file may be shown for long.
    """
    if not outcome.problem and frames >= outcome.expected - 1.5:
        return frames
    entries = "format=format_name,duration,start_time:stream=duration,r_frame_rate,nb_frames,nb_read_packets"
    entries += ":stream_tags=DURATION"
    probed = probe(video, entries, "-count_packets")
    stream, container = (probed.get("streams") or [{}])[0], probed.get("format", {})
    stated, read = int(stream.get("nb_frames", 0)), int(stream.get("nb_read_packets", 0))
    is_avi = container.get("format_name") == "avi"  # an MP4 file may hide frames, and a cut one is a problem anyway
    promised = frames
    if is_avi and stated > read:
        promised = max(stated * outcome.rate / float(Fraction(stream["r_frame_rate"])), frames)
    if not outcome.problem:
        return promised
    if "duration" in stream:
        seconds = float(stream["duration"])
    else:  # Matroska states where the track or the file ends
        hours, minutes, rest = stream.get("tags", {}).get("DURATION", "0:0:0").split(":")
        seconds = int(hours) * 3600 + int(minutes) * 60 + float(rest) or float(container.get("duration", 0))
        if "matroska" in container.get("format_name", ""):
            seconds -= max(float(container.get("start_time", 0)), 0.0)
    return max(seconds * outcome.rate, promised)


def probe(video: Path, entries: str, *options: str) -> dict:
    """What ffprobe says of a file and its video tracks, and its error lines as `problems`. Raises VideoError."""
    command = ["ffprobe", "-v", "error", "-select_streams", "V", *options, "-show_entries", entries, "-of", "json"]
    result = subprocess.run([*command, source_of(video)], capture_output=True, stdin=subprocess.DEVNULL)
    lines = result.stderr.decode(errors="replace").strip().splitlines()
    try:
        return json.loads(result.stdout) | {"problems": lines}
    except ValueError:
        raise unreadable(lines[-1] if lines else "no reason given") from None


def unreadable(problem: str) -> VideoError:
    """Says that nothing can be got out of a file; problem: ffmpeg's line, without the name of the file."""
    return VideoError(f"cannot be read as a video ({_FILE_NAME.sub('', problem)})")
