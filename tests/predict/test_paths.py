"""ops/predict/paths.py: what the user names -> videos."""

import os
from pathlib import Path

import pytest

from ops.predict.paths import FoundVideo, find
from ops.utils.errors import UserError


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A folder of (empty) videos, frames and other things, which is the current one."""
    names = [
        "b.mp4", "a.MKV", "notes.txt", ".hidden.mp4", "deep/er/c.webm", ".cache/d.mp4", "deep/a b'\"\n.avi",
        "frames/x/image_00001.jpg", "frames/x/image_00002.jpg", "frames/y/00001.jpg", "frames/late/image_00002.jpg",
    ]  # fmt: skip
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def paths(*names: str) -> list[str]:
    return [str(video.path) for video in find(names)]


def test_a_folder_stands_for_all_videos_in_it_sorted(folder):
    assert paths(".") == ["a.MKV", "b.mp4", "deep/a b'\"\n.avi", "deep/er/c.webm", "frames/x", "frames/y"]
    assert paths("deep") == ["deep/a b'\"\n.avi", "deep/er/c.webm"]


def test_a_folder_of_frames_is_one_video_whatever_the_frames_are_called(folder):
    assert find(["frames/x"]) == [FoundVideo(Path("frames/x"), "image_{:05d}.jpg")]
    assert [video.template for video in find(["frames"])] == ["image_{:05d}.jpg", "{:05d}.jpg"]


def test_a_file_is_a_video_whatever_its_ending(folder):
    assert find(["notes.txt"]) == [FoundVideo(Path("notes.txt"))]


def test_names_keep_their_order_and_each_video_comes_once(folder):
    assert paths("b.mp4", "a.MKV", str(folder / "b.mp4"), "deep/er", "deep") == [
        "b.mp4", "a.MKV", "deep/er/c.webm", "deep/a b'\"\n.avi",
    ]  # fmt: skip


def test_patterns_that_the_shell_left_alone_are_expanded(folder):
    assert paths("*.mp4") == ["b.mp4"]
    assert paths("**/*.webm") == ["deep/er/c.webm"]
    assert paths("dee?") == ["deep/a b'\"\n.avi", "deep/er/c.webm"]


def test_a_name_with_brackets_is_a_name_first(folder):
    (folder / "a[1].mp4").touch()
    assert paths("a[1].mp4") == ["a[1].mp4"]


def test_links_that_lead_back_up_end(folder):
    (folder / "deep" / "loop").symlink_to(folder, target_is_directory=True)
    assert paths("deep").count("deep/er/c.webm") == 1


@pytest.mark.parametrize("name", ["absent.mp4", "*.mov", "frames/late", "absent\n.mp4"])
def test_a_name_that_stands_for_nothing_is_an_error_in_one_line(folder, name):
    with pytest.raises(UserError) as error:
        find(["b.mp4", name])
    assert str(error.value).startswith(name.replace("\n", "\\n")) and "\n" not in str(error.value)


def test_one_name_is_not_taken_for_a_list_of_letters(folder):
    with pytest.raises(TypeError, match="takes a list"):
        find("/videos/a.mp4")


def test_a_name_that_is_not_utf8_is_fine(folder):
    try:
        (folder / os.fsdecode(b"caf\xe9.mp4")).touch()
    except (OSError, UnicodeError):
        pytest.skip("this file system takes UTF-8 names only")
    assert os.fsdecode(b"caf\xe9.mp4") in paths(".")
