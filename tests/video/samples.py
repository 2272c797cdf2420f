"""Small videos of the kinds that people have, made by the program ffmpeg on the spot: name -> how.

`$` stands for the file to be made, `SOURCE` for 1.2 s of 96 x 64 pixels at 25 frames per second, `SOUND` for as much of
a tone, `VFR` and `PASSTHROUGH` for how frames are timed, and `@NAME` for another sample.
"""

import shlex
import subprocess
from pathlib import Path

import pytest

from ops.video.ffmpeg import timing_option

_SOURCE = "-f lavfi -i testsrc2=s=96x64:r=25:d=1.2"
_SOUND = "-f lavfi -i sine=r=44100:d=1.2"
_FAST = "-c:v libx264 -preset ultrafast -bf 2 -g 12"

SAMPLES = {
    # codecs and containers
    "h264.mp4": f"SOURCE {_FAST} $",
    "h264_main.mkv": "SOURCE -c:v libx264 -preset veryfast $",
    "h264_refresh.mkv": "SOURCE -c:v libx264 -preset ultrafast -x264-params intra-refresh=1:keyint=10 $",
    "h264_open_gop.mp4": "SOURCE -c:v libx264 -preset veryfast -x264-params open-gop=1:keyint=10:bframes=3 $",
    "h264_444.mp4": "SOURCE -c:v libx264 -preset ultrafast -pix_fmt yuv444p $",
    "h264.mov": f"SOURCE SOUND {_FAST} -c:a aac $",
    "h264_sound.mp4": f"SOURCE SOUND {_FAST} -c:a aac $",
    "h264.flv": f"SOURCE SOUND {_FAST} -c:a aac $",
    "h264.ts": f"SOURCE SOUND {_FAST} -c:a aac $",
    "hevc.mp4": "SOURCE -c:v libx265 -preset ultrafast -x265-params log-level=none:keyint=10 -tag:v hvc1 $",
    "mpeg4.avi": "SOURCE -c:v mpeg4 -q:v 3 $",
    "mpeg4_b.avi": "SOURCE -c:v mpeg4 -bf 2 -q:v 3 $",
    "mpeg2.mpg": "SOURCE -c:v mpeg2video -q:v 3 $",
    "mjpeg.avi": "SOURCE -c:v mjpeg -q:v 3 $",
    "vp8_hidden.webm": "SOURCE -c:v libvpx -deadline good -cpu-used 8 -auto-alt-ref 1 -lag-in-frames 10 $",
    "vp9.webm": "SOURCE -c:v libvpx-vp9 -deadline realtime -cpu-used 8 $",
    "av1.mp4": "SOURCE -c:v libsvtav1 -preset 12 $",
    "wmv2.wmv": "SOURCE SOUND -c:v wmv2 -q:v 3 -c:a wmav2 $",
    # sizes, rotation, cover art
    "odd.mkv": "SOURCE -vf scale=95:63 -c:v ffv1 $",
    "wide_pixels.mp4": f"SOURCE -vf setsar=16/11 {_FAST} $",
    "rotated.mp4": "@h264.mp4 -c copy -metadata:s:v:0 rotate=90 $",
    "cover.mp4": "@h264_sound.mp4 SOURCE -map 0 -map 1:v -c copy -c:v:1 png -frames:v:1 1 "
    "-disposition:v:1 attached_pic $",
    # rates
    "rate_ntsc.mkv": f"-f lavfi -i testsrc2=s=96x64:r=30000/1001:d=1.2 {_FAST} $",
    "rate_odd.mp4": f"-f lavfi -i testsrc2=s=96x64:r=19.47:d=1.2 {_FAST} $",
    "rate_varies.mp4": f"SOURCE -vf \"select='not(mod(n,3))+lt(n,20)'\" VFR {_FAST} $",
    "rate_varies.mkv": f"SOURCE -vf \"select='mod(n,4)'\" VFR {_FAST} $",
    "rate_jitters.mp4": f"SOURCE -vf \"setpts='N/25/TB+0.012*sin(1.7*N)/TB'\" PASSTHROUGH {_FAST} $",
    "rates_joined.mp4": f"-f lavfi -i testsrc2=s=96x64:r=30:d=0.6 -f lavfi -i testsrc2=s=96x64:r=60:d=0.6 "
    f"-filter_complex [0][1]concat=n=2 VFR {_FAST} $",
    "last_held.mp4": f"SOURCE -vf \"setpts='if(lt(N,28),PTS,PTS+1.5/TB)'\" VFR {_FAST} $",
    # starts
    "offset.mkv": f"SOURCE {_FAST} -output_ts_offset 3 $",
    "offset_sound.mp4": "-itsoffset 0.7 @h264.mp4 SOUND -c:v copy -c:a aac $",
    "offset_small.mp4": "-itsoffset 0.012 @h264.mp4 SOUND -c:v copy -c:a aac $",
    "offset.webm": "-itsoffset 0.5 SOURCE SOUND -c:v libvpx-vp9 -deadline realtime -cpu-used 8 -c:a libopus $",
    "cut.mp4": "-ss 0.5 @h264_sound.mp4 -c copy $",
    "cut.mkv": "-ss 0.5 @h264_sound.mp4 -c copy $",
    # interlaced
    "interlaced_dv.avi": "-f lavfi -i testsrc2=s=720x576:r=50:d=0.2 -vf tinterlace=interleave_top -c:v dvvideo "
    "-pix_fmt yuv420p $",
    "interlaced_mpeg2.mpg": "-f lavfi -i testsrc2=s=96x64:r=50:d=0.6 -vf tinterlace=interleave_top -c:v mpeg2video "
    "-flags +ilme+ildct -q:v 3 $",
    "interlaced_h264.mp4": "-f lavfi -i testsrc2=s=96x64:r=50:d=0.6 -vf tinterlace=interleave_top -c:v libx264 "
    "-preset ultrafast -flags +ilme+ildct $",
    # still pictures
    "still_then_moving.mp4": f"-f lavfi -i color=black:s=96x64:r=25:d=0.6 -f lavfi -i testsrc2=s=96x64:r=25:d=0.6 "
    f"-filter_complex [0][1]concat=n=2 {_FAST} $",
    "one_frame.mp4": f"SOURCE -frames:v 1 {_FAST} $",
}  # fmt: skip
# Damaged: name -> (sample, share of it that is kept, share from which a twentieth is zeroed).
DAMAGED = {
    "truncated_97.avi": ("mpeg4.avi", 0.97, None),
    "truncated_50.avi": ("mpeg4.avi", 0.5, None),
    "truncated_91.flv": ("h264.flv", 0.91, None),
    "truncated_97.mkv": ("h264_main.mkv", 0.97, None),
    "truncated_end.mp4": ("h264.mp4", 0.95, None),  # without its table of contents, which comes last
    "truncated_front.mp4": ("front.mp4", 0.95, None),
    "zeroed.avi": ("mpeg4.avi", 1, 0.5),
    "zeroed.mkv": ("h264_main.mkv", 1, 0.5),
    "zeroed.mp4": ("front.mp4", 1, 0.5),
}
SAMPLES["front.mp4"] = "@h264.mp4 -c copy -movflags +faststart $"


def make_sample(name: str, folder: Path) -> Path:
    """Make a sample in `folder`, and those that it needs; returns the file."""
    path = folder / name
    if path.exists():
        return path
    if name in DAMAGED:
        source, kept, zeroed = DAMAGED[name]
        content = bytearray(make_sample(source, folder).read_bytes())
        if zeroed:
            start, length = int(zeroed * len(content)), len(content) // 20
            content[start : start + length] = bytes(length)
        path.write_bytes(content[: int(kept * len(content))])
        return path
    words = []
    recipe = SAMPLES[name].replace("SOURCE", _SOURCE).replace("SOUND", _SOUND)
    recipe = recipe.replace("VFR", f"{timing_option()} vfr").replace("PASSTHROUGH", f"{timing_option()} passthrough")
    for word in shlex.split(recipe):
        if word.startswith("@"):
            words += ["-i", str(make_sample(word[1:], folder))]
        else:
            words.append(str(path) if word == "$" else word)
    command = [
        "ffmpeg",
        "-nostdin",
        "-v",
        "error",
        "-y",
        "-threads",
        "1",
        *words[:-1],
        "-fflags",
        "+bitexact",
        words[-1],
    ]
    result = subprocess.run(command, capture_output=True, text=True)
    if "Unknown encoder" in result.stderr:  # AV1 before FFmpeg 4.4
        pytest.skip(result.stderr.strip())
    assert result.returncode == 0, result.stderr
    return path
