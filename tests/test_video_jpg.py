"""The entry script that turns videos into folders of frames."""

import os
import shutil
import signal
import subprocess
import sys
import time

import cv2
import pytest

from ops.utils.errors import UserError
from ops.utils.processes import WorkerDied
from ops.video.ffmpeg import published_command, run_published
from ops.video.frame_folders import (
    FrameSettings,
    FrameTemplate,
    _unfinished_mark,
)
from ops.video.opencv import scaled_size
from ops.video.plan import Selection, plan
from ops.video_jpg import extract_videos, main
from tests.shared import ROOT, call, run_script, the_error
from tests.videos import frame_number, make_video, replace_ffmpeg, set_durations

needs_ffmpeg = pytest.mark.skipif(not shutil.which("ffmpeg"), reason="needs the program ffmpeg")
ODD_NAMES = [
    "-dash", "sp ace ", "quote's\"", "semi;$(touch pwned)", "`x`", "new\nline", "tab\t", "ünï 视频", "100%05d", "{}",
    "concat:a", "pipe|", "back\\slash", "x" * 250, "two.dots",
]  # fmt: skip


@pytest.fixture(autouse=True)
def one_core(monkeypatch):
    """One video at a time by default: starting processes takes longer than such small videos."""
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {0})


def tree(folder):
    """Relative name of each folder with frames -> how many; nothing else may lie there but failed.txt."""
    found = {}
    for here, _, files in os.walk(folder):
        frames = [name for name in files if name.endswith(".jpg")]
        assert set(files) - set(frames) <= {"failed.txt", "how_made.json", "sub"}
        if frames:
            assert sorted(frames) == [f"image_{number:05d}.jpg" for number in range(1, len(frames) + 1)]
            found[os.path.relpath(here, folder)] = len(frames)
    return found


def failures(folder):
    return dict(line.split("\t") for line in (folder / "failed.txt").read_text().splitlines())


def test_sub_folders_and_endings_in_any_case_become_folders_of_frames(tmp_path, capsys):
    source, target = tmp_path / "videos", tmp_path / "data" / "frames"
    make_video(source / "a.mp4", 20)
    make_video(source / "cooking" / "b.avi", 7)
    (source / "cooking" / "b.avi").rename(source / "cooking" / "b.AVI")
    make_video(source / "cooking" / "c.mp4", 5)
    (source / "notes.txt").write_text("not a video")
    make_video(source / ".hidden.mp4", 5)
    (source / ".trash").mkdir()
    (source / ".trash" / "d.mp4").touch()
    assert call(main, source, target, "--height", 24) == 0
    assert tree(target) == {"a": 20, "cooking/b": 7, "cooking/c": 5}
    image = cv2.imread(str(target / "a" / "image_00014.jpg"))
    assert image.shape == (24, 32, 3) and frame_number(image) == 13
    assert "3 videos made, 0 redone, 0 already there, 0 failed; 32 frames" in capsys.readouterr().out


@pytest.mark.parametrize("name", ODD_NAMES)
def test_any_file_name_is_safe(tmp_path, name, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_video(tmp_path / "100%d of $(touch pwned)" / f"{name}.mp4", 3)
    summary = extract_videos(tmp_path / "100%d of $(touch pwned)", tmp_path / "fr%03d")
    assert summary.done == [f"{name}.mp4"]
    assert tree(tmp_path / "fr%03d") == {name: 3}
    assert not list(tmp_path.rglob("pwned"))


def test_without_options_frames_are_360_pixels_high(tmp_path):
    make_video(tmp_path / "videos" / "a.avi", 2, width=98, height=60)
    extract_videos(tmp_path / "videos", tmp_path / "frames")
    assert cv2.imread(str(tmp_path / "frames" / "a" / "image_00001.jpg")).shape == (360, 588, 3)


@pytest.mark.parametrize(
    ("height", "width", "scaled"),
    [(480, 640, (360, 480)), (270, 480, (360, 640)), (405, 719, (360, 639)), (9, 1, (360, 40)), (9, 5, (360, 200))],
)
def test_the_aspect_is_kept_and_the_width_rounded(height, width, scaled):
    assert scaled_size(height, width, 360) == scaled


def test_a_better_jpeg_quality_makes_larger_files(tmp_path):
    make_video(tmp_path / "videos" / "a.mp4", 1)
    sizes = []
    for quality in (10, 75, 100):
        target = tmp_path / str(quality)
        options = ["--backend", "opencv", "--jpeg_quality", quality]
        assert call(main, tmp_path / "videos", target, *options) == 0
        sizes.append((target / "a" / "image_00001.jpg").stat().st_size)
    assert sizes == sorted(set(sizes))


def test_the_frame_rate_can_be_given(tmp_path):
    make_video(tmp_path / "videos" / "a.mp4", 40, 10)
    assert call(main, tmp_path / "videos", tmp_path / "frames", "--frame_rate", 1) == 0
    assert tree(tmp_path / "frames") == {"a": 6}


@pytest.mark.parametrize(
    ("options", "first"),
    [
        (["--prefix", "img_%06d.jpg"], "img_000001.jpg"),
        (["--prefix", "img_{:03d}.JPG"], "img_001.JPG"),
        (["--prefix=-%d.jpg"], "-1.jpg"),
        (["--prefix", "{:05d}.jpg"], "00001.jpg"),
        (["--dataset", "minik"], "img_00001.jpg"),
        (["--dataset", "minik", "--prefix", "f{:05d}.jpeg"], "f00001.jpeg"),
    ],
)
def test_frames_are_named_as_asked(tmp_path, options, first):
    make_video(tmp_path / "videos" / "a.mp4", 2)
    assert call(main, tmp_path / "videos", tmp_path / "frames", *options) == 0
    assert first in os.listdir(tmp_path / "frames" / "a")


@pytest.mark.parametrize("text", ["image.jpg", "image_%05d.png", "a/%05d.jpg", "%05d_%05d.jpg", "%5d.jpg", ".%d.jpg"])
def test_a_template_that_cannot_name_frames_is_refused(text):
    with pytest.raises(UserError, match="frame template"):
        FrameTemplate.parse(text)


def test_a_second_run_skips_what_is_finished_and_redoes_the_rest(tmp_path, capsys):
    source, target = tmp_path / "videos", tmp_path / "frames"
    for name in ("a", "b", "c", "d"):
        make_video(source / f"{name}.mp4", 4)
    extract_videos(source, target)
    shutil.rmtree(target / "b")
    (target / "b").mkdir()  # as a killed run of other software leaves it
    (target / "c").rename(target / f"{_unfinished_mark(target / 'c')}0123abcd")  # as a killed run of ours leaves it
    (target / "d").joinpath("image_00004.jpg").unlink()  # still holds frames: taken as it is
    (target / f"{_unfinished_mark(target / 'd')}4567cdef").mkdir()
    (target / "failed.txt").write_text("b.mp4\tdied\n")
    assert call(main, source, target) == 0
    assert tree(target) == {"a": 4, "b": 4, "c": 4, "d": 3}
    assert "0 videos made, 2 redone, 2 already there, 0 failed, 3 unfinished" in capsys.readouterr().out
    assert sorted(os.listdir(target)) == ["a", "b", "c", "d", "how_made.json"]


def test_a_folder_with_other_files_is_left_alone(tmp_path):
    make_video(tmp_path / "videos" / "a.mp4", 4)
    (tmp_path / "frames" / "a").mkdir(parents=True)
    (tmp_path / "frames" / "a" / "thesis.txt").write_text("precious")
    summary = extract_videos(tmp_path / "videos", tmp_path / "frames")
    assert "holds other files, such as thesis.txt" in summary.failed[0][1]
    assert os.listdir(tmp_path / "frames" / "a") == ["thesis.txt"]


@pytest.mark.parametrize("workers", [1, 2])
def test_bad_files_are_listed_and_the_others_go_on(tmp_path, workers, capsys):
    source, target = tmp_path / "videos", tmp_path / "frames"
    make_video(source / "good.mp4", 5)
    make_video(source / "z.mp4", 5)
    (source / "empty.mp4").touch()
    (source / "text.webm").write_text("hello " * 100)
    os.mkfifo(source / "pipe.mp4")
    cut = make_video(source / "cut.avi", 60).read_bytes()
    (source / "cut.avi").write_bytes(cut[: int(0.87 * len(cut))])
    assert call(main, source, target, "--parallel", "--num_workers", workers) == 1
    assert tree(target) == {"good": 5, "z": 5}
    reasons = failures(target)
    assert reasons.keys() == {"empty.mp4", "text.webm", "pipe.mp4", "cut.avi"}
    assert "empty file" in reasons["empty.mp4"] and "60" in reasons["cut.avi"]
    printed = capsys.readouterr()
    assert "failed: empty.mp4: is an empty file" in printed.err and "4 failed" in printed.out

    for name in reasons:
        (source / name).unlink()
    assert call(main, source, target) == 0
    assert not (target / "failed.txt").exists()


def test_what_a_process_that_died_leaves_is_removed_and_its_video_listed(tmp_path, monkeypatch):
    source, target = tmp_path / "videos", tmp_path / "frames"
    make_video(source / "a.mp4", 1)

    def run_and_die(work, jobs, *_):
        for job in jobs:
            job[1].with_name(f"{_unfinished_mark(job[1])}0123abcd").mkdir()
            yield job, WorkerDied("its process ended with signal 9")

    monkeypatch.setattr("ops.video.extraction.run_jobs", run_and_die)
    assert extract_videos(source, target).failed == [("a.mp4", "its process ended with signal 9")]
    assert sorted(os.listdir(target)) == ["failed.txt", "how_made.json"]


def test_a_folder_that_cannot_be_made_costs_its_videos_only(tmp_path):
    source, target = tmp_path / "videos", tmp_path / "frames"
    make_video(source / "a.mp4", 3)
    make_video(source / "sub" / "b.mp4", 3)
    target.mkdir()
    (target / "sub").touch()  # for a folder without write permission, which would not stop root
    assert call(main, source, target) == 1
    assert tree(tmp_path / "frames") == {"a": 3}
    assert failures(target) == {"sub/b.mp4": f"File exists: {target / 'sub' / 'b'}"}


def test_runs_on_parts_of_the_videos_keep_each_others_failures(tmp_path):
    source, target = tmp_path / "videos", tmp_path / "frames"
    make_video(source / "b.mp4", 3)
    (source / "a.mp4").touch()
    (source / "c.mp4").touch()
    assert call(main, source, target, "--end", 2) == 1
    assert call(main, source, target, "--begin", 1) == 1
    assert failures(target).keys() == {"a.mp4", "c.mp4"}
    assert tree(target) == {"b": 3}
    make_video(source / "c.mp4", 3)
    assert call(main, source, target, "--begin", 1) == 0
    assert failures(target).keys() == {"a.mp4"}


def test_two_videos_with_one_folder_are_not_mixed(tmp_path):
    source, target = tmp_path / "videos", tmp_path / "frames"
    make_video(source / "a.avi", 3)
    make_video(source / "a.mp4", 5)
    make_video(source / "b.mp4", 2)
    make_video(source / "b" / "c.mp4", 4)
    summary = extract_videos(source, target)
    assert tree(target) == {"a": 3, "b/c": 4}
    assert "shares its folder of frames, a, with a.avi" in dict(summary.failed)["a.mp4"]
    assert "would also hold b/c.mp4" in dict(summary.failed)["b.mp4"]
    for number, action in enumerate(("make", "fail", "fail", "make")):  # also of each alone
        (video,) = plan(source, tmp_path / "new", FrameTemplate.parse("%d.jpg"), Selection(begin=number, end=number))
        assert video.action == action


FULL = "echo 'av_interleaved_write_frame(): No space left on device' >&2; printf '\\377\\331' > half.jpg; exit 1"
BEFORE_5 = '"$FFMPEG" "$@"; truncate -s 99 image_00004.jpg; truncate -s 0 image_00005.jpg; exit 0'


@needs_ffmpeg
@pytest.mark.parametrize(
    ("full", "workers", "why"),
    [
        (FULL, 1, "No space left on device"),
        (FULL, 2, "No space left on device"),
        (FULL.replace("No space left on device", "Disk quota exceeded"), 1, "Disk quota exceeded"),
        (BEFORE_5, 1, "No space left on device"),
    ],
)
def test_a_full_disk_stops_the_run_and_leaves_nothing_half_made(tmp_path, monkeypatch, full, workers, why, capsys):
    for name in "abc":
        make_video(tmp_path / "videos" / f"{name}.mp4", 5)
    replace_ffmpeg(monkeypatch, tmp_path, f'case "$*" in *b.mp4*image_*) {full};; esac; exec "$FFMPEG" "$@"')
    options = ["--parallel", "--num_workers", workers]
    assert call(main, tmp_path / "videos", tmp_path / "frames", *options) == 2
    error = the_error(capsys.readouterr().err)
    assert f"{why}: " in error and "make room and run this again. So far" in error
    assert set(os.listdir(tmp_path / "frames")) <= {"a", "c", "how_made.json"}


@needs_ffmpeg
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_is_noticed_in_what_ffmpeg_says(tmp_path):
    make_video(tmp_path / "a.mp4", 5)
    (tmp_path / "frames").mkdir()
    (tmp_path / "frames" / "1.jpg").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        run_published(published_command(tmp_path / "a.mp4", 48, None, "%d.jpg"), tmp_path / "frames")


def _long_run(source, target, workers):
    """A run in a process of its own, in the middle of its first videos."""
    for name in "abc":
        make_video(source / f"{name}.avi", 250, 25)
    options = ["--height", "900", "--parallel", "--num_workers", str(workers)]
    command = [sys.executable, "-m", "ops.video_jpg", source, target, *options]
    run = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not list(target.glob(".unfinished-*/image_00003.jpg")):
        assert run.poll() is None and time.monotonic() < deadline, run.communicate()
        time.sleep(0.01)
    return run


@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_run_is_taken_up_again(tmp_path, workers, capsys):
    source, target = tmp_path / "videos", tmp_path / "frames"
    run = _long_run(source, target, workers)
    run.kill()
    run.communicate()
    if workers == 2:  # its processes notice and tidy up; without, nothing could
        deadline = time.monotonic() + 30
        while list(target.glob(".unfinished-*")) and time.monotonic() < deadline:
            time.sleep(0.05)
    finished = {name for name in os.listdir(target) if not name.startswith(".")} - {"how_made.json"}
    assert len(finished) < 3 and all(tree(target)[name] == 250 for name in finished)
    (source / "c.avi").unlink()
    assert call(main, source, target, "--height", 900) == 0
    assert {name: count for name, count in tree(target).items() if name != "c"} == {"a": 250, "b": 250}
    assert f"{2 - workers} redone" in capsys.readouterr().out
    assert not list(target.glob(".unfinished-*"))


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stop_leaves_only_finished_videos(tmp_path, number, code, workers):
    source, target = tmp_path / "videos", tmp_path / "frames"
    run = _long_run(source, target, workers)
    run.send_signal(number)
    output, errors = run.communicate(timeout=60)
    assert (run.returncode, errors) == (code, "")
    assert "stopped: " in output and "Run the same command again" in output
    assert all(count == 250 for count in tree(target).values())
    assert not list(target.glob(".unfinished-*"))


def test_a_list_and_a_range_choose_videos(tmp_path, capsys):
    source = tmp_path / "videos"
    for name in ("a", "b", "c", "sub/d", "e"):
        make_video(source / f"{name}.mp4", 2)
    listed = tmp_path / "list.txt"
    listed.write_text("\ufeffe.mp4\r\nb\n\nb.mp4\n./sub/d.mp4\nzebra.mp4\n", encoding="utf-8")
    assert call(main, source, tmp_path / "one", "--file_list", listed) == 0
    assert tree(tmp_path / "one").keys() == {"b", "e", "sub/d"}
    assert "1 names are no video here, such as zebra.mp4" in capsys.readouterr().err
    assert call(main, source, tmp_path / "two", "--begin", 1, "--end", 2) == 0
    assert tree(tmp_path / "two").keys() == {"b", "c"}  # the last one counts
    assert call(main, source, tmp_path / "three", "--file_list", listed, "--begin", 2) == 0
    assert tree(tmp_path / "three").keys() == {"sub/d"}  # the third of the list, not of the alphabet
    shards = [tmp_path / f"shard{number}" for number in range(3)]
    for number, shard in enumerate(shards):
        assert call(main, source, shard, "--begin", 2 * number, "--end", 2 * number + 1) == 0
    assert [sorted(tree(shard)) for shard in shards] == [["a", "b"], ["c", "e"], ["sub/d"]]
    capsys.readouterr()
    assert call(main, source, tmp_path / "four", "--begin", 5) == 0
    assert tree(tmp_path / "four") == {}
    assert "--begin 5: the last video is number 4" in capsys.readouterr().err


@pytest.mark.parametrize(("begin", "end"), [(-1, 3), (0, -1), (3, 2)])
def test_a_range_without_videos_is_one_line(tmp_path, capsys, begin, end):
    (tmp_path / "a.mp4").touch()
    assert call(main, tmp_path, tmp_path / "frames", "--begin", begin, "--end", end) == 2
    assert f"--begin {begin} --end {end}: give numbers from 0" in the_error(capsys.readouterr().err)


def test_videos_of_old_and_rarer_kinds_are_found(tmp_path):
    endings = ["3gp", "WMV", "m2ts", "mpeg", "mpg", "mts", "ogv", "vob"]
    names = ["a.flv", "a.mp4", *(f"b_{ending}.{ending}" for ending in endings)]
    for name in names:
        (tmp_path / name).touch()
    planned = plan(tmp_path, tmp_path / "frames", FrameTemplate.parse("image_%05d.jpg"))
    assert sorted(video.name for video in planned) == sorted(names)
    (failed,) = [video for video in planned if video.action == "fail"]
    assert (failed.name, failed.reason) == ("a.mp4", "shares its folder of frames, a, with a.flv; rename one of them")


def test_other_endings_can_be_accepted(tmp_path):
    make_video(tmp_path / "videos" / "a.avi", 2).rename(tmp_path / "videos" / "a.video")
    make_video(tmp_path / "videos" / "b.mp4", 2)
    assert call(main, tmp_path / "videos", tmp_path / "frames", "--accepted_formats", "video") == 0
    assert tree(tmp_path / "frames") == {"a": 2}


def test_a_dry_run_prints_what_would_be_done_and_writes_nothing(tmp_path, capsys):
    source, target = tmp_path / "videos", tmp_path / "frames"
    make_video(source / "a.mp4", 2)
    extract_videos(source, target)
    make_video(source / "b.mp4", 2)
    make_video(source / "a.avi", 2)
    before = sorted(tmp_path.rglob("*"))
    assert call(main, source, target, "--dry_run") == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == f"already there: a.avi -> {target / 'a'}"
    assert printed[1].startswith("would fail: a.mp4: shares its folder")
    assert printed[2] == f"would make: b.mp4 -> {target / 'b'}"
    assert sorted(tmp_path.rglob("*")) == before


def test_a_run_begins_with_an_estimate_and_stops_where_it_cannot_fit(tmp_path, capsys, monkeypatch):
    for number in range(40):
        make_video(tmp_path / "videos" / f"{number}.mp4", 10)
    (tmp_path / "videos" / "empty.mp4").touch()
    disk = shutil._ntuple_diskusage(10**12, 10**12 - 10**4, 10**4)
    monkeypatch.setattr("ops.video.frames_root.shutil.disk_usage", lambda folder: disk)
    assert call(main, tmp_path / "videos", tmp_path / "frames") == 2
    printed = capsys.readouterr()
    assert "41 videos to turn into about 410 frames, 0.00" in the_error(printed.err)
    assert tree(tmp_path / "frames") == {}


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--height", 24], "height 48, not 24"),
        (["--frame_rate", 1], "frame_rate None, not 1.0"),
        (["--prefix", "img_%05d.jpg"], "template image_{:05d}.jpg, not img_{:05d}.jpg"),
        (["--backend", "opencv", "--jpeg_quality", 90], "jpeg_quality 18, not 90"),
        pytest.param(["--backend", "auto"], "backend opencv, not ffmpeg", marks=needs_ffmpeg),
    ],
)
def test_frames_made_in_another_way_are_not_already_there(tmp_path, options, problem, capsys):
    make_video(tmp_path / "videos" / "a.mp4", 10)
    start = [tmp_path / "videos", tmp_path / "frames", "--height", 48, "--backend", "opencv"]
    assert call(main, *start) == 0
    assert call(main, *start, *options) == 2
    assert problem in the_error(capsys.readouterr().err)
    assert call(main, *start) == 0


def test_frames_of_unknown_origin_are_taken_with_a_warning(tmp_path, capsys):
    make_video(tmp_path / "videos" / "a.mp4", 10)
    assert call(main, tmp_path / "videos", tmp_path / "frames") == 0
    made = tmp_path / "frames" / "how_made.json"
    for damage in ("", "[]", "{"):
        made.write_text(damage)
        assert call(main, tmp_path / "videos", tmp_path / "frames") == 2
        assert "how_made.json: is not as this program writes it" in the_error(capsys.readouterr().err)
    made.rename(made.with_name(".how_made.json.123"))  # as a killed run leaves it
    assert call(main, tmp_path / "videos", tmp_path / "frames") == 0
    assert sorted(os.listdir(made.parent)) == ["a", "how_made.json"]
    assert "nothing says how its frames were made" in capsys.readouterr().err


@needs_ffmpeg
def test_a_short_video_is_kept_and_listed_until_it_is_made_again(tmp_path, capsys):
    source, target = tmp_path / "videos", tmp_path / "frames"
    path = make_video(source / "a.avi", 60, width=320, height=240)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(0.94 * len(whole))])
    assert call(main, source, target) == 1
    printed = capsys.readouterr()
    count = tree(target)["a"]
    assert 54 <= count < 60 and failures(target) == {"a.avi": f"short: {count} of 60 promised frames"}
    assert f"kept: a.avi: short: {count} of 60" in printed.err and "0 failed, 1 short or damaged;" in printed.out
    assert call(main, source, target) == 0  # already there, and still listed
    assert failures(target).keys() == {"a.avi"}
    assert call(main, source, tmp_path / "strict", "--strict") == 1
    assert tree(tmp_path / "strict") == {} and "short: " in failures(tmp_path / "strict")["a.avi"]
    path.write_bytes(whole)
    shutil.rmtree(target / "a")
    assert call(main, source, target) == 0
    assert tree(target) == {"a": 60} and not (target / "failed.txt").exists()


def test_without_ffmpeg_what_opencv_cannot_do_says_what_to_install(tmp_path, monkeypatch, capsys):
    path = make_video(tmp_path / "videos" / "a.mp4", 40, 10)
    set_durations(path, [(20, 2), (20, 1)])
    monkeypatch.setenv("PATH", str(tmp_path))
    assert call(main, tmp_path / "videos", tmp_path / "frames") == 1
    line = "failed: a.mp4: its frame rate varies; install ffmpeg (apt-get install ffmpeg), then run this again"
    assert line in capsys.readouterr().err


def test_one_command_makes_a_data_set(tmp_path, capsys):
    source = tmp_path / "videos"
    for number in range(3):
        make_video(source / "run" / f"r{number}.mp4", 4 + number)
        make_video(source / f"j{number}.mp4", 3)
    make_video(source / "extra.mp4", 3)
    table = tmp_path / "labels.csv"
    rows = [f"run/r{n}.mp4,run" for n in range(3)] + [f"j{n},jump" for n in range(3)]
    table.write_text("\n".join(["video,label", *rows]) + "\n")
    assert call(main, source, tmp_path / "data" / "frames", "--write_split", table) == 0
    written = [(tmp_path / "data" / f"{split}_split.txt").read_text().splitlines() for split in ("train", "val")]
    assert [len(lines) for lines in written] == [4, 2]
    assert sorted(written[0] + written[1]) == ["j0,3,0", "j1,3,0", "j2,3,0", "run/r0,4,1", "run/r1,5,1", "run/r2,6,1"]
    assert (tmp_path / "data" / "classInd.txt").read_text() == "jump\nrun\n"
    assert "2 classes, 4 training and 2 validation videos" in capsys.readouterr().out


def test_the_splits_of_mini_kinetics_are_separated_by_spaces(tmp_path):
    for name in ("a b", "c"):
        make_video(tmp_path / "videos" / f"{name}.mp4", 3)
    (tmp_path / "labels.csv").write_text("video,label,split\na b,x,train\nc,x,val\n")
    options = ["--dataset", "minik", "--write_split", tmp_path / "labels.csv"]
    assert call(main, tmp_path / "videos", tmp_path / "frames", *options) == 0
    assert (tmp_path / "train_split.txt").read_text() == "a b 3 0\n"


def test_a_wrong_table_is_found_before_any_work(tmp_path, capsys):
    make_video(tmp_path / "videos" / "a.mp4", 3)
    table = tmp_path / "labels.csv"
    table.write_text("video,label\nb.mp4,run\n")
    assert call(main, tmp_path / "videos", tmp_path / "frames", "--write_split", table) == 2
    assert f"{table}:2: no video 'b.mp4'" in the_error(capsys.readouterr().err)
    assert not (tmp_path / "frames").exists()


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--prefix", "image.jpg"], "does not number frames"),
        (["--prefix", "x" * 300 + "%05d.jpg"], "does not number frames"),
        (["--file_list", "x" * 300], "x: cannot be read (File name too long)"),
        (["--frame_rate", "0"], "frame rate 0"),
        (["--height", "0"], "height 0"),
        (["--jpeg_quality", "101"], "JPEG quality 101"),
        (["--parallel", "--num_workers", "0"], "0 workers"),
        (["--file_list", "absent.txt"], "absent.txt: cannot be read"),
        (["--write_split", "absent.csv"], "absent.csv: cannot be read"),
        (["--accepted_formats", ".ogv"], "no video in this folder (.ogv)"),
        pytest.param(["--jpeg_quality", "90"], "--jpeg_quality is for --backend opencv", marks=needs_ffmpeg),
    ],
)
def test_wrong_options_are_named(tmp_path, options, problem, capsys):
    make_video(tmp_path / "videos" / "a.mp4", 2)
    assert call(main, tmp_path / "videos", tmp_path / "frames", *options) == 2
    assert problem in the_error(capsys.readouterr().err)
    assert not (tmp_path / "frames").exists()


def test_folders_that_cannot_be_used_are_named(tmp_path, capsys):
    assert call(main, tmp_path / "absent", tmp_path / "frames") == 2
    assert "absent: no such folder of videos" in the_error(capsys.readouterr().err)
    make_video(tmp_path / "videos" / "a.mp4", 2)
    (tmp_path / "file").touch()
    assert call(main, tmp_path / "videos", tmp_path / "file") == 2
    assert "file: cannot be written" in the_error(capsys.readouterr().err)


def test_the_script_runs_from_anywhere_without_torch(tmp_path):
    make_video(tmp_path / "videos" / "a.mp4", 2)
    make_video(tmp_path / "videos" / "b.mp4", 2)
    script = ROOT / "ops" / "video_jpg.py"
    run_script(script, "videos", "frames", "--parallel", "--num_workers", "2", cwd=tmp_path)
    assert tree(tmp_path / "frames") == {"a": 2, "b": 2}
    code = "import sys, ops.video_jpg; sys.exit('torch' in sys.modules)"
    run_script("-c", code)


def test_frames_inside_the_folder_of_videos_are_not_searched(tmp_path):
    make_video(tmp_path / "a.mp4", 2)
    make_video(tmp_path / "frames" / "b.mp4", 2)
    os.symlink(tmp_path, tmp_path / "loop", target_is_directory=True)
    planned = plan(tmp_path, tmp_path / "frames", FrameTemplate.parse("%d.jpg"))
    assert [video.name for video in planned] == ["a.mp4"]


def test_ffmpeg_is_asked_as_published(tmp_path):
    command = published_command(tmp_path / "-i $(x).mp4", 360, None, "img_%05d.jpg")
    source = f"file:{tmp_path / '-i $(x).mp4'}"
    assert command[0] == "ffmpeg" and command[-5:] == ["-i", source, "-vf", "scale=-1:360", "./img_%05d.jpg"]
    assert published_command(tmp_path / "a.mp4", 360, 1.0, "%d.jpg")[-3:] == ["-r", "1", "./%d.jpg"]


def test_without_the_program_ffmpeg_its_backend_is_refused(tmp_path, monkeypatch, capsys):
    make_video(tmp_path / "videos" / "a.mp4", 2)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert call(main, tmp_path / "videos", tmp_path / "frames", "--backend", "ffmpeg") == 2
    assert "no program 'ffmpeg'" in the_error(capsys.readouterr().err)


@needs_ffmpeg
def test_both_backends_make_the_same_frames(tmp_path):
    source = tmp_path / "videos"
    make_video(source / "a %03d;$(touch pwned).avi", 30, 10, width=640, height=480)
    make_video(source / "-b\n.mp4", 20, 10)
    (source / "empty.mp4").touch()
    (source / "text.mp4").write_text("hello " * 100)
    cut = make_video(source / "cut.avi", 60).read_bytes()
    (source / "cut.avi").write_bytes(cut[: len(cut) // 2])
    targets = [tmp_path / backend for backend in ("opencv", "ffmpeg")]
    for target in targets:
        summary = extract_videos(source, target, FrameSettings(backend=target.name))
        assert sorted(name for name, _ in summary.failed) == ["cut.avi", "empty.mp4", "text.mp4"]
    assert tree(targets[0]) == tree(targets[1]) == {"a %03d;$(touch pwned)": 30, "-b\n": 20}
    for name, count in tree(targets[0]).items():
        for number in range(1, count + 1):
            ours, theirs = (cv2.imread(str(target / name / f"image_{number:05d}.jpg")) for target in targets)
            assert ours.shape == theirs.shape and frame_number(ours) == frame_number(theirs) == number - 1
