"""ops/utils/errors.py: what a user sees of a run that ends otherwise than planned."""

import errno
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ops.utils.errors import EXIT_WITH_FAILURES, EXIT_WRONG_INPUT, is_first_process, run_entry, tell, wait_briefly
from tests.shared import ROOT, the_error

MANY_LINES = """
from ops.utils.errors import run_entry
def main():
    for number in range(100_000):
        print("line", number)
run_entry(main)
"""


def test_a_reader_that_goes_away_is_one_line_and_no_traceback():
    process = subprocess.Popen(
        [sys.executable, "-c", MANY_LINES], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "line 0\n"
    process.stdout.close()  # as `head -1` does
    errors = process.stderr.read()
    process.stderr.close()
    assert process.wait() == EXIT_WITH_FAILURES
    assert "the output" in the_error(errors)


CLOSED = """
import os, sys
from ops.utils.errors import run_entry
def main():
    print("nobody reads this")
    with open(os.devnull) as file:
        assert file.fileno() > 2
run_entry(main)
"""


def test_closed_output_is_nobodys_file():
    closed = [sys.executable, "-c", "import os, sys; os.closerange(0, 3); os.execv(sys.argv[1], sys.argv[1:])"]
    done = subprocess.run([*closed, sys.executable, "-c", CLOSED], cwd=ROOT)
    assert done.returncode == 0


@pytest.mark.parametrize(
    ("environment", "first"),
    [
        ({}, True),
        ({"RANK": "1"}, True),
        ({"RANK": "1", "WORLD_SIZE": "2"}, False),
        ({"RANK": "0", "WORLD_SIZE": "2"}, True),
    ],
)
def test_one_process_is_the_first_whatever_a_launcher_has_left_in_the_environment(environment, first, monkeypatch):
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert is_first_process() == first


def test_a_line_that_a_signal_would_put_into_another_is_left_out_and_later_ones_are_not():
    class Busy(io.StringIO):
        silenced = False

        def write(self, text):
            raise RuntimeError("reentrant call")

        def fileno(self):
            self.silenced = True
            raise OSError

    stream = Busy()
    tell("SIGTERM: finishing this step", stream)
    assert not stream.silenced


def test_threads_are_told_to_wait_briefly_before_main_loads_torch(monkeypatch):
    monkeypatch.setattr(os, "environ", {})
    seen = []
    with pytest.raises(SystemExit):
        run_entry(lambda: seen.append(dict(os.environ)))
    assert seen == [{"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "3000", "MPLBACKEND": "agg"}]


def test_what_the_user_has_set_stays(monkeypatch):
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    wait_briefly()
    assert os.environ["GOMP_SPINCOUNT"] == "7" and os.environ["OMP_WAIT_POLICY"] == "ACTIVE"


def test_a_home_folder_that_the_shell_leaves_alone_is_found(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    given = ["main.py", "--data_dir=~/x", "--resume=~", "--root_log", "log", "--eval_suffix=a=~", "--csv=~nobody9/x"]
    monkeypatch.setattr(sys, "argv", given)
    seen = []
    with pytest.raises(SystemExit):
        run_entry(lambda: seen.extend(sys.argv))
    assert seen == ["main.py", "--data_dir=/home/me/x", "--resume=/home/me", *given[3:]]


def test_names_that_the_terminal_cannot_show_are_printed_all_the_same():
    code = "from ops.utils.errors import run_entry, UserError\ndef main():\n    print('f\\xfcnf \\udce9')\n"
    code += "    raise UserError('caf\\udce9')\nrun_entry(main)"
    for environment in ({"PYTHONIOENCODING": "ascii", "LC_ALL": "C"}, {"PYTHONIOENCODING": "utf-8"}):
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=os.environ | environment, capture_output=True)
        umlaut = b"\\xfc" if "LC_ALL" in environment else "ü".encode()
        assert (done.stdout, done.stderr) == (b"f" + umlaut + b"nf \\udce9\n", b"error: caf\\udce9\n")


def test_a_missing_permission_is_one_line(capsys):
    def main():
        raise PermissionError(errno.EACCES, "Permission denied", "/data/classInd.txt")

    with pytest.raises(SystemExit) as left:
        run_entry(main)
    assert left.value.code == EXIT_WRONG_INPUT
    line = "error: Permission denied: /data/classInd.txt; check its permissions"
    assert the_error(capsys.readouterr().err) == line


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="there is no disk that is always full")
@pytest.mark.parametrize(
    "printing", ["print('a row', flush=True)", "sys.stdout.buffer.write(b'x'); sys.stdout.flush()"]
)
def test_a_full_disk_behind_standard_output_is_one_line(printing):
    program = f"import sys\nfrom ops.utils.errors import run_entry\ndef main():\n    {printing}\nrun_entry(main)"
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2 and done.stderr == "error: the output cannot be written: No space left on device\n"
