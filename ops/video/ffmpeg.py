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
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from pathlib import Path

from ops.video.errors import VideoError, check_readable

_CONTAINER = re.compile(r"Input #\d+, (\S+), from")
_DURATION = re.compile(r"Duration: (\d+):(\d\d):(\d\d(?:\.\d+)?)")
_INPUT_RATE = re.compile(r"Video: .*, (\d+(?:\.\d+)?) fps")
_OUTPUT_RATE = re.compile(r"Video: mjpeg.*?, (\d+(?:\.\d+)?) fps", re.DOTALL)
_FILE_NAME = re.compile(r"^file:.*: (?=[^:]+$)", re.DOTALL)  # before the reason
_PROBLEM = re.compile(r"^(?:\[[^\]]+ @ [^\]]+\] )?\[(?:error|fatal|panic)\] (.+)", re.MULTILINE)


@dataclass(frozen=True)
class Outcome:
    """What became of one run of the published command."""

    problem: str  # ffmpeg's first error line; empty where it wrote none and ended well
    expected: float  # frames by the file's stated duration, which may be that of the sound; 0 where it states none
    rate: float  # frames per second written; 0 where that is not known
    container: str  # ffmpeg's name for the kind of file


def is_installed() -> bool:
    """Whether the programs ffmpeg and ffprobe are there."""
    return bool(shutil.which("ffmpeg") and shutil.which("ffprobe"))


def timing_option() -> str:
    """The option for how frames are timed that the installed release knows: -vsync up to FFmpeg 8, -fps_mode from 5.1
    on."""
    return _timing_option(shutil.which("ffmpeg"))


@cache
def _timing_option(program: str | None) -> str:
    options = subprocess.run([program or "ffmpeg", "-v", "quiet", "-h", "long"], capture_output=True, text=True).stdout
    return "-fps_mode" if "-fps_mode" in options else "-vsync"


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
    full = next((number for number in (errno.ENOSPC, errno.EDQUOT) if os.strerror(number) in said), 0)
    if not (full or result.returncode or all(map(_is_whole, folder.iterdir()))):
        full = errno.ENOSPC
    if full:
        raise OSError(full, os.strerror(full))
    problems = _PROBLEM.findall(said)
    problem = problems[-1 if result.returncode else 0] if problems else ""
    if result.returncode and not problem:
        problem = f"ffmpeg ended with exit code {result.returncode}"
    stated, rate = _DURATION.search(said), _OUTPUT_RATE.search(said)
    rate = float(rate[1]) if rate else 0.0
    container = _CONTAINER.search(said)
    return Outcome(
        problem, _seconds(stated.groups()) * rate if stated else 0.0, rate, container[1] if container else ""
    )


def _is_whole(file: Path) -> bool:
    """Whether a file ends as JPEG files do: to FFmpeg before 5.0 all is well where the disk is full."""
    with open(file, "rb") as content:
        end = content.seek(0, os.SEEK_END)
        content.seek(max(end - 2, 0))
        return content.read(2) == b"\xff\xd9"


def promised_frames(video: Path, outcome: Outcome, frames: int) -> float:
    """How many frames an intact file would have given, where `frames` were made.

    Nothing more is looked at where all went well. But that an AVI or FLV file was cut is no problem to ffmpeg: the
    first states its size and its frames, the second how long it is, sound included.
    """
    silently_cut = outcome.container == "flv" and frames < outcome.expected - 1.5
    if outcome.container == "avi":
        with video.open("rb") as file:
            silently_cut = int.from_bytes(file.read(8)[4:], "little") + 8 > video.stat().st_size
    if not (outcome.problem or silently_cut):
        return frames
    if outcome.container == "flv":
        probed = probe(video, "packet=pts_time,duration_time:format=duration")
        ends = [float(packet["pts_time"]) + float(packet.get("duration_time", 0)) for packet in probed["packets"]]
        return frames + max(float(probed["format"].get("duration", 0)) - max(ends, default=0.0), 0.0) * outcome.rate
    entries = "format=format_name,duration,start_time:stream=duration,r_frame_rate,nb_frames:stream_tags=DURATION"
    probed = probe(video, entries, "-select_streams", "V")
    stream, container = (probed.get("streams") or [{}])[0], probed.get("format", {})
    if outcome.container == "avi" and "nb_frames" in stream:
        seconds = int(stream["nb_frames"]) / float(Fraction(stream["r_frame_rate"]))
    elif "duration" in stream:
        seconds = float(stream["duration"])
    else:  # Matroska states where the track or the file ends
        ends = _seconds(stream.get("tags", {}).get("DURATION", "0:0:0").split(":"))
        seconds = ends or float(container.get("duration", 0))
        if "matroska" in outcome.container:
            seconds -= max(float(container.get("start_time", 0)), 0.0)
    return max(seconds * outcome.rate, frames)


def stated_lengths(videos: Sequence[Path]) -> list[tuple[float, float]]:
    """(frames, frames per second) as the headers say, of those of `videos` that say it."""
    lengths, waiting = [], [video for video in videos if _is_readable(video)]
    while waiting:
        inputs = [word for video in waiting for word in ("-i", source_of(video))]
        command = ["ffmpeg", "-nostdin", "-hide_banner", *inputs]
        said = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL).stderr.decode(errors="replace")
        opened = re.split(r"^(?=Input #)", said, flags=re.MULTILINE)[1:]
        for words in opened:
            stated, rate = _DURATION.search(words), _INPUT_RATE.search(words)
            if stated and rate:
                lengths.append((_seconds(stated.groups()) * float(rate[1]), float(rate[1])))
        waiting = waiting[len(opened) + 1 :]  # it stops at the first that it cannot open
    return lengths


def _is_readable(video: Path) -> bool:
    with suppress(VideoError):
        check_readable(video)
        return True
    return False


def _seconds(parts: Sequence[str]) -> float:
    """Of hours, minutes and seconds."""
    hours, minutes, seconds = map(float, parts)
    return hours * 3600 + minutes * 60 + seconds


def probe(video: Path, entries: str, *options: str) -> dict:
    """What ffprobe says of a file, and its error lines as `problems`. Raises VideoError."""
    command = ["ffprobe", "-v", "error", *options, "-show_entries", entries, "-of", "json"]
    result = subprocess.run([*command, source_of(video)], capture_output=True, stdin=subprocess.DEVNULL)
    lines = result.stderr.decode(errors="replace").strip().splitlines()
    try:
        return json.loads(result.stdout) | {"problems": lines}
    except ValueError:
        raise unreadable(lines[-1] if lines else "no reason given") from None


def unreadable(problem: str) -> VideoError:
    """Says that nothing can be got out of a file; problem: ffmpeg's line, without the name of the file."""
    return VideoError(f"cannot be read as a video ({_FILE_NAME.sub('', problem)})")
