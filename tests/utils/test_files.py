"""ops/utils/files.py: a file is there whole or not at all."""

import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from ops.utils.errors import UserError
from ops.utils.files import check_writable, whole_file


def test_the_file_appears_when_the_block_ends(tmp_path):
    path = tmp_path / "file"
    path.write_text("before")
    with whole_file(path) as file:
        file.write(b"after")
        file.flush()
        assert path.read_text() == "before"
    assert path.read_text() == "after" and list(tmp_path.iterdir()) == [path]


def test_a_block_that_fails_leaves_what_was_there(tmp_path):
    path = tmp_path / "file"
    path.write_text("before")
    with pytest.raises(ZeroDivisionError), whole_file(path) as file:
        file.write(b"half")
        raise ZeroDivisionError
    assert path.read_text() == "before" and list(tmp_path.iterdir()) == [path]


def test_a_link_stays_a_link_and_its_file_is_replaced(tmp_path):
    real, link = tmp_path / "folder" / "real", tmp_path / "link"
    real.parent.mkdir()
    real.write_text("before")
    link.symlink_to(real)
    with whole_file(link) as file:
        file.write(b"after")
    assert link.is_symlink() and real.read_text() == "after"
    assert list(real.parent.iterdir()) == [real] and len(list(tmp_path.iterdir())) == 2


def test_a_pipe_gets_what_is_written_and_stays_a_pipe(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with ThreadPoolExecutor() as threads:
        reading = threads.submit(pipe.read_bytes)
        with whole_file(pipe) as file:
            file.write(b"all")
        assert reading.result() == b"all" and pipe.is_fifo()


def test_a_place_that_cannot_be_written_is_one_line(tmp_path):
    nowhere = tmp_path / "nowhere" / "file"
    with pytest.raises(UserError, match="No such file or directory"), whole_file(nowhere):
        pass


def test_before_the_work_a_place_is_tried_without_a_trace(tmp_path):
    (tmp_path / "file").write_text("before")
    for path in (tmp_path / "file", tmp_path / "new", tmp_path / "to" / "be" / "made"):
        check_writable(path)
    for path in (tmp_path / "file" / "new", tmp_path / "file" / "made" / "new"):
        with pytest.raises(UserError, match=f"cannot write {path}: Not a directory"):
            check_writable(path)
    assert list(tmp_path.iterdir()) == [tmp_path / "file"] and (tmp_path / "file").read_text() == "before"
