"""Long runs: whatever interrupts them, they go on as if nothing had happened."""

import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from functools import partial

import pytest
import torch
from torch.distributed import run as torchrun

import main
import main_semiAMP
from ops import checkpoint
from ops.utils.files import remove_leftovers
from tests.shared import (
    IN_FORKS,
    ROOT,
    SMALL_OPTIONS,
    call,
    call_together,
    free_port,
    run_forked,
    the_error,
    write_small_dataset,
)
from tests.thin import no_pictures, thin_networks

FOLDER = "UniAdaFocus_mine_mbv2_segment6_e2"
pytestmark = pytest.mark.usefixtures("thin_networks", "no_pictures")


@pytest.fixture
def options(dataset_folder):
    return run_options(dataset_folder)


def run_options(dataset_folder) -> list:
    """A run of two epochs of two steps, with dropout and evaluations."""
    return ["--dataset", "mine", "--data_dir", dataset_folder, *SMALL_OPTIONS, "--epochs", 2, "--eval-freq", 1]


def _weights(root, folder: str = FOLDER) -> torch.Tensor:
    state = torch.load(root / folder / "ckpt.pth.tar", weights_only=True)
    momenta = [value["momentum_buffer"] for value in state["optimizer"]["state"].values()]
    return torch.cat([value.flatten().double() for value in [*state["state_dict"].values(), *momenta]])


def _records(root) -> list[dict]:
    records = [json.loads(line) for line in (root / FOLDER / "metrics.jsonl").read_text().splitlines()]
    for record in records:  # what the clock decides
        record["train"] = {
            name: value for name, value in record["train"].items() if name not in ("videos_per_second", "data_time")
        }
    return records


def stop_with_workers() -> None:
    """SIGTERM to this process and its data workers, as launchers, Slurm and `timeout` send it to all of a group; from
    another process, since workers end quietly when their parent sends it."""
    workers = multiprocessing.active_children()
    targets = [*(str(worker.pid) for worker in workers), str(os.getpid())]
    send = "import os, signal, sys\nfor target in sys.argv[1:]: os.kill(int(target), signal.SIGTERM)"
    subprocess.run([sys.executable, "-S", "-c", send, *targets], check=True)
    for worker in workers:
        worker.join(0.2)  # which returns when it has ended, as it should not


def _interrupt_after(monkeypatch, steps: int, how) -> None:
    """Have `how()` called once, at the end of the given training step of this process."""
    from ops import engine

    original, done = engine.train_steps, [0]

    def counting(*arguments, **keywords):
        for step in original(*arguments, **keywords):
            done[0] += 1
            if done[0] == steps:
                how()
            yield step

    monkeypatch.setattr(engine, "train_steps", counting)


@pytest.mark.parametrize(("script", "workers", "steps"), [(main, 0, 1), (main_semiAMP, 2, 3)])
def test_a_run_that_was_stopped_by_a_signal_ends_with_the_weights_of_one_that_was_not(
    script, workers, steps, options, tmp_path, monkeypatch
):
    options = [*options, "--workers", workers]
    assert call(script.main, *options, "--root_log", tmp_path / "whole") == 0
    with monkeypatch.context() as patch:
        _interrupt_after(patch, steps, stop_with_workers)
        assert call(script.main, *options, "--root_log", tmp_path / "parts") == 143
    stopped = torch.load(tmp_path / "parts" / FOLDER / "ckpt.pth.tar", weights_only=True)
    assert (stopped["epoch"], stopped["step"]) == divmod(steps, 2)

    assert call(script.main, *options, "--root_log", tmp_path / "parts", "--resume", "auto") == 0
    assert torch.equal(_weights(tmp_path / "whole"), _weights(tmp_path / "parts"))
    assert _records(tmp_path / "parts") == [
        {**record, "train": pytest.approx(record["train"])} for record in _records(tmp_path / "whole")
    ]


@pytest.mark.parametrize(
    "workers", [0, 2]
)  # which are ahead of training: a frame that they read counts when it is used
def test_replaced_frames_are_those_of_the_whole_epoch(workers, options, dataset_folder, tmp_path, monkeypatch, capsys):
    for number in range(4):
        for frame in range(2, 9):
            (dataset_folder / "frames" / f"train{number}" / f"image_{frame:05d}.jpg").write_bytes(b"not a picture")
    options, root = [*options, "--workers", workers], tmp_path / "parts"
    assert call(main.main, *options, "--root_log", tmp_path / "whole") == 0
    whole = [record["train"]["replaced_frames"] for record in _records(tmp_path / "whole")]
    told = re.findall(r"warning: epoch .*", capsys.readouterr().out)
    assert min(whole) >= 16 and "of 4 videos could not be read" in told[0]
    with monkeypatch.context() as patch:
        _interrupt_after(patch, 1, stop_with_workers)
        assert call(main.main, *options, "--root_log", root, "--save_freq", 1) == 143
    capsys.readouterr()
    assert call(main.main, *options, "--root_log", root, "--resume", "auto") == 0
    assert [record["train"]["replaced_frames"] for record in _records(root)] == whole
    assert re.findall(r"warning: epoch .*", capsys.readouterr().out) == told


def test_two_processes_keep_the_replaced_frames_of_both(options, dataset_folder, tmp_path):
    for number in range(4):
        for frame in range(2, 9):
            (dataset_folder / "frames" / f"train{number}" / f"image_{frame:05d}.jpg").write_bytes(b"not a picture")
    for name, run in (("one", lambda *given: call(main.main, *given)), ("two", partial(call_together, main.main))):
        run(*options, "--root_log", tmp_path / name, "--epochs", 1, "--save_freq", 1)
    one, two = (tmp_path / name / FOLDER.replace("e2", "e1") / "ckpt.1.pth.tar" for name in ("one", "two"))
    kept = [torch.load(path, weights_only=True) for path in (one, two)]
    assert kept[0]["step"] == 1 and len(kept[0]["replaced_frames"]) == 2
    assert kept[0]["replaced_frames"] == kept[1]["replaced_frames"]
    call_together(main.main, *options, "--root_log", tmp_path / "two", "--epochs", 1, "--resume", two)
    one, two = (path.with_name("metrics.jsonl").read_text() for path in (one, two))
    assert json.loads(one)["train"]["replaced_frames"] == json.loads(two)["train"]["replaced_frames"] >= 16


def test_a_run_that_goes_on_leaves_the_lines_of_its_earlier_epochs_as_they_are(options, tmp_path):
    assert call(main.main, *options, "--root_log", tmp_path) == 0
    file = tmp_path / FOLDER / "metrics.jsonl"
    before = file.read_text().splitlines()
    assert '"replaced_frames": 0}' in before[0]  # a number of frames, and not 0.0
    assert call(main.main, *options, "--root_log", tmp_path, "--resume", "auto", "--start_epoch", 1) == 0
    after = file.read_text().splitlines()
    assert len(after) == 2 and after[0] == before[0]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_ctrl_c_and_a_terminal_that_closes_save_though_nobody_reads_any_more(number, options, tmp_path, monkeypatch):
    """With `2>&1 | tee log`, Ctrl-C ends tee, too."""

    def stop():
        reader, writer = os.pipe()
        os.close(reader)
        gone = open(writer, "w")  # noqa: SIM115
        monkeypatch.setattr(sys, "stdout", gone)
        monkeypatch.setattr(sys, "stderr", gone)
        os.kill(os.getpid(), number)

    _interrupt_after(monkeypatch, 1, stop)
    assert call(main.main, *options, "--root_log", tmp_path) == 128 + number
    assert torch.load(tmp_path / FOLDER / "ckpt.pth.tar", weights_only=True)["step"] == 1
    assert f"stopped by signal {number}" in (tmp_path / FOLDER / "log.csv").read_text()


def test_a_signal_during_an_evaluation_loses_no_training(options, tmp_path, monkeypatch):
    from ops import engine

    assert call(main.main, *options, "--root_log", tmp_path / "whole") == 0
    original = engine.evaluate

    def interrupted(*arguments, **keywords):
        os.kill(os.getpid(), signal.SIGTERM)
        return original(*arguments, **keywords)

    with monkeypatch.context() as patch:
        patch.setattr(engine, "evaluate", interrupted)
        assert call(main.main, *options, "--root_log", tmp_path / "parts") == 143
    stopped = torch.load(tmp_path / "parts" / FOLDER / "ckpt.pth.tar", weights_only=True)
    assert (stopped["epoch"], stopped["step"]) == (0, 2)
    assert call(main.main, *options, "--root_log", tmp_path / "parts", "--resume", "auto") == 0
    assert torch.equal(_weights(tmp_path / "whole"), _weights(tmp_path / "parts"))
    assert [record["epoch"] for record in _records(tmp_path / "parts")] == [0, 1]
    # An epoch of which nothing was left to train had no speed.
    lines = (tmp_path / "parts" / FOLDER / "metrics.jsonl").read_text().splitlines()
    assert ["videos_per_second" in line and "data_time" in line for line in lines] == [False, True]


def test_an_evaluation_that_fails_loses_no_training(options, dataset_folder, tmp_path, capsys):
    frames = dataset_folder / "frames" / "val0"
    good = {path: path.read_bytes() for path in frames.iterdir()}
    for path in good:
        path.write_bytes(b"not a picture")
    assert call(main.main, *options, "--root_log", tmp_path) == 2
    assert "val0" in the_error(capsys.readouterr().err)
    stopped = torch.load(tmp_path / FOLDER / "ckpt.pth.tar", weights_only=True)
    assert (stopped["epoch"], stopped["step"]) == (0, 2)
    for path, content in good.items():
        path.write_bytes(content)
    assert call(main.main, *options, "--root_log", tmp_path, "--resume", "auto") == 0
    assert [record["epoch"] for record in _records(tmp_path)] == [0, 1]
    assert torch.load(tmp_path / FOLDER / "ckpt.1.pth.tar", weights_only=True)["epoch"] == 1


def test_weights_that_are_not_finite_replace_no_checkpoint(options, tmp_path, monkeypatch, capsys):
    from ops import engine

    original = engine.train_steps

    def diverging(state, *arguments, **keywords):
        for step in original(state, *arguments, **keywords):
            if (state.epoch, state.step) == (1, 2):
                next(state.model.parameters()).data.fill_(torch.inf)
            yield step

    monkeypatch.setattr(engine, "train_steps", diverging)
    assert call(main.main, *options, "--root_log", tmp_path) == 2
    assert "training has diverged" in the_error(capsys.readouterr().err)
    assert torch.load(tmp_path / FOLDER / "ckpt.pth.tar", weights_only=True)["epoch"] == 1


def test_saving_every_few_steps_lets_a_killed_run_go_on(options, tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    def kill():
        raise Killed

    assert call(main.main, *options, "--root_log", tmp_path / "whole") == 0
    with monkeypatch.context() as patch, pytest.raises(Killed):
        _interrupt_after(patch, 4, kill)
        main.main([str(o) for o in [*options, "--root_log", tmp_path / "parts", "--save_freq", 1]])
    stopped = torch.load(tmp_path / "parts" / FOLDER / "ckpt.pth.tar", weights_only=True)
    assert (stopped["epoch"], stopped["step"]) == (1, 1)
    assert call(main.main, *options, "--root_log", tmp_path / "parts", "--resume", "auto") == 0
    assert torch.equal(_weights(tmp_path / "whole"), _weights(tmp_path / "parts"))


def test_auto_without_a_checkpoint_is_nothing_to_evaluate(options, tmp_path, capsys):
    assert call(main.main, *options, "--root_log", tmp_path, "--resume", "auto", "--evaluate") == 2
    assert f"no checkpoint in {tmp_path / FOLDER} to evaluate" in the_error(capsys.readouterr().err)


def test_auto_starts_anew_without_checkpoints_and_falls_back_from_a_damaged_one(options, tmp_path, capsys):
    assert call(main.main, *options, "--root_log", tmp_path, "--resume", "auto") == 0
    assert f"no checkpoint in {tmp_path / FOLDER}: starting from the beginning" in capsys.readouterr().out
    last = tmp_path / FOLDER / "ckpt.pth.tar"
    last.write_bytes(last.read_bytes()[:1000])
    assert call(main.main, *options, "--root_log", tmp_path, "--resume", "auto") == 0
    printed = capsys.readouterr().out
    assert "warning: " in printed and "ckpt.pth.tar is not a checkpoint" in printed
    assert f"weights of {tmp_path / FOLDER / 'ckpt.1.pth.tar'}" in printed
    assert torch.load(last, weights_only=True)["epoch"] == 2


def test_auto_with_damaged_checkpoints_only_is_an_error(options, tmp_path, capsys):
    (tmp_path / FOLDER).mkdir()
    (tmp_path / FOLDER / "ckpt.pth.tar").write_bytes(b"damaged")
    assert call(main.main, *options, "--root_log", tmp_path, "--resume", "auto") == 2
    assert "can be read" in the_error(capsys.readouterr().err)
    assert (tmp_path / FOLDER / "ckpt.pth.tar").read_bytes() == b"damaged"


def test_changed_options_are_named_and_impossible_ones_refused(options, dataset_folder, tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        _interrupt_after(patch, 1, lambda: os.kill(os.getpid(), signal.SIGTERM))
        assert call(main.main, *options, "--root_log", tmp_path) == 143
    resume = ["--root_log", tmp_path, "--resume", "auto"]
    capsys.readouterr()
    assert call(main.main, *options, *resume, "--batch_size", 4) == 2
    assert "--batch_size 2" in the_error(capsys.readouterr().err)
    frames = dataset_folder / "frames"
    (frames / "train0").rename(frames / "away")
    assert call(main.main, *options, *resume, "--skip_missing") == 2
    assert re.search(r"\b4 videos.*\b3\b", the_error(capsys.readouterr().err))
    (frames / "away").rename(frames / "train0")
    assert call(main.main, *options, *resume, "--lr", 0.001) == 0
    assert "warning: not as in the checkpoint: lr: 0.002 -> 0.001" in capsys.readouterr().out


@pytest.fixture(scope="module")
def run_of_two(tmp_path_factory):
    """Options of a small run, and the log folder of one that two processes made in one go."""
    root = tmp_path_factory.mktemp("two")
    options = run_options(write_small_dataset(root / "data"))
    with thin_networks(), no_pictures():
        call_together(main.main, *options, "--root_log", root / "whole")
    return options, root / "whole"


KILL_ONE = """
import os, sys
sys.path.insert(0, {root!r})
from ops.utils import distributed
from ops import engine
from tests.thin import no_pictures, thin_networks
distributed.PATIENCE = 1.0
original = engine.train_steps
marker = {marker!r}

def killing(state, *arguments, **keywords):
    for step in original(state, *arguments, **keywords):
        yield step
        if state.epoch == 0 and os.environ["RANK"] == "1" and not os.path.exists(marker):
            open(marker, "w").close()
            os.kill(os.getpid(), 9)

engine.train_steps = killing
import main
from ops.utils.errors import run_entry
with thin_networks(), no_pictures():
    run_entry(main.main)
"""


def _launch(arguments: list[str]) -> None:
    """`torchrun arguments`, in a process group of its own; as a command of its own it is in test_main.py."""
    os.setsid()
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    os.dup2(nothing, 2)
    torch.set_num_threads(1)  # a forked process has none of its parent's threads
    os.chdir(ROOT)
    torchrun.main(arguments)


def test_the_launcher_starts_a_killed_process_again_and_stopped_by_it_two_go_on_exactly(run_of_two, tmp_path):
    options, whole = run_of_two
    log = tmp_path / "parts" / FOLDER / "log.csv"
    script, marker = tmp_path / "killing.py", tmp_path / "killed"
    script.write_text(KILL_ONE.format(root=str(ROOT), marker=str(marker)))
    parts = ["--root_log", str(tmp_path / "parts"), "--resume", "auto"]
    launched = ["--nproc_per_node=2", f"--master_port={free_port()}", "--max-restarts=1", *IN_FORKS, script]
    arguments = [str(word) for word in (*launched, *options, *parts, "--save_freq", 1, "--workers", 2)]
    run = multiprocessing.get_context("fork").Process(target=_launch, args=(arguments,))
    run.start()
    try:
        while run.is_alive() and not (log.exists() and "Epoch: [0][1/2]" in log.read_text()):
            time.sleep(0.05)
        assert marker.exists()
        os.killpg(run.pid, signal.SIGTERM)  # as torchrun's own launchers and Slurm do: data workers hear it too
        run.join(120)
        assert run.exitcode not in (None, 0)
    finally:
        run.kill()  # does nothing to one that has ended
    assert "stopped by signal 15" in log.read_text()
    resumed = call_together(main.main, *options, *parts)
    assert "2 process(es) on cpu, batch 2" in resumed.stdout and "Done: best" in resumed.stdout
    assert torch.equal(_weights(whole), _weights(tmp_path / "parts"))
    assert [record["epoch"] for record in _records(tmp_path / "parts")] == [0, 1]
    # Another number of processes goes on as well.
    first = max((tmp_path / "parts" / FOLDER).glob("ckpt.?.pth.tar"))
    assert len(torch.load(first, weights_only=True)["random_states"]) == 2
    assert call(main.main, *options, *parts[:2], "--resume", first) == 0


SAVING = """
import os, sys
from pathlib import Path
import torch
from ops import checkpoint
from ops.utils.files import remove_leftovers

def counted(function):
    def wrapper(*arguments, **keywords):
        global calls
        if calls == stage:
            os.kill(os.getpid(), 9)
        calls += 1
        result = function(*arguments, **keywords)
        if calls == stage:
            os.kill(os.getpid(), 9)
        calls += 1
        return result
    return wrapper

os.fsync, os.replace, os.link = counted(os.fsync), counted(os.replace), counted(os.link)
torch.save = counted(torch.save)
root, ended = Path(sys.argv[1]), None
while ended != 0:  # until a process is not killed any more
    stage, calls = (0 if ended is None else stage + 1), 0
    (root / str(stage)).mkdir()
    process = os.fork()
    if process == 0:
        for number in range(1, 4):
            content = {"state_dict": {"number": torch.tensor(number)}}
            checkpoint.save(content, root / str(stage) / checkpoint.LAST, keep=2)
        os._exit(0)
    ended = os.waitpid(process, 0)[1]
    assert ended in (0, 9), ended
"""


def test_a_kill_at_any_stage_of_a_save_loses_nothing(tmp_path):
    script = tmp_path / "saving.py"
    script.write_text(SAVING)
    (tmp_path / "stages").mkdir()
    run_forked(script, tmp_path / "stages")
    before, stages = 0, sorted((tmp_path / "stages").iterdir(), key=lambda folder: int(folder.name))
    for folder in stages:
        found, problems = checkpoint.find("auto", folder)
        number = int(found.state_dict["number"]) if found else 0
        assert number >= before and not problems, (folder.name, number, before)
        before = number
        remove_leftovers(folder)
        assert all(path.name.startswith("ckpt.") for path in folder.iterdir())
    assert before == 3 and len(stages) > 20


def test_a_checkpoint_from_elsewhere_does_not_write_over_the_run_in_the_folder(options, tmp_path, capsys):
    assert call(main.main, *options, "--root_log", tmp_path / "first") == 0
    elsewhere = tmp_path / "elsewhere.pth.tar"
    shutil.copyfile(tmp_path / "first" / FOLDER / "ckpt.1.pth.tar", elsewhere)
    before = (tmp_path / "first" / FOLDER / "metrics.jsonl").read_text()
    capsys.readouterr()
    assert call(main.main, *options, "--root_log", tmp_path / "first", "--resume", elsewhere, "--lr", 0.0001) == 0
    assert f"An earlier run's files are now in {tmp_path / 'first' / FOLDER / 'earlier_1'}" in capsys.readouterr().out
    assert (tmp_path / "first" / FOLDER / "earlier_1" / "metrics.jsonl").read_text() == before
    assert [record["epoch"] for record in _records(tmp_path / "first")] == [1]


def test_the_best_begins_anew_in_a_folder_that_does_not_hold_its_checkpoint(options, tmp_path, capsys):
    assert call(main.main, *options, "--root_log", tmp_path) == 0
    capsys.readouterr()
    last = tmp_path / FOLDER / "ckpt.pth.tar"
    assert call(main.main, *options, "--root_log", tmp_path, "--resume", last, "--epochs", 3) == 0
    printed, folder = capsys.readouterr().out, tmp_path / FOLDER.replace("_e2", "_e3")
    assert re.search(rf"The best Acc_pred@1 so far, [\d.]+, stays in {tmp_path / FOLDER}; here it begins anew", printed)
    assert (folder / "ckpt.best.pth.tar").exists()
    assert f"best Acc_pred@1 {checkpoint.read(folder / 'ckpt.best.pth.tar').best:.3f}" in printed.splitlines()[-1]


def test_going_back_to_the_best_says_that_it_stays(options, tmp_path, capsys):
    assert call(main.main, *options, "--root_log", tmp_path) == 0
    capsys.readouterr()
    best = tmp_path / FOLDER / "ckpt.best.pth.tar"
    again = ["--resume", best, "--start_epoch", 0, "--lr", 0.001]
    assert call(main.main, *options, "--root_log", tmp_path, *again) == 0
    assert re.search(r"ckpt\.best\.pth\.tar has Acc_pred@1 [\d.]+ and stays until", capsys.readouterr().out)


def test_a_best_of_another_metric_is_not_compared_with(options, tmp_path, capsys):
    assert call(main.main, *options, "--root_log", tmp_path, "--metric", "map") == 0
    path = tmp_path / FOLDER / "ckpt.pth.tar"
    for name in (path, path.with_name("ckpt.best.pth.tar")):
        torch.save(torch.load(name, weights_only=True) | {"epoch": 1, "best_acc1": 99.0}, name)
    capsys.readouterr()
    assert call(main.main, *options, "--root_log", tmp_path, "--resume", "auto", "--metric", "accuracy") == 0
    printed = capsys.readouterr().out
    assert "its best, 99.000, is of mAP: the best Acc_pred@1 begins anew" in printed and "99.0" not in printed[-120:]
    assert checkpoint.read(path.with_name("ckpt.best.pth.tar")).metric == "Acc_pred@1"


def test_other_lists_are_told_and_refused_in_the_middle_of_an_epoch(
    options, dataset_folder, tmp_path, capsys, monkeypatch
):
    assert call(main.main, *options, "--root_log", tmp_path / "a", "--epochs", 1) == 0
    with monkeypatch.context() as patch:
        _interrupt_after(patch, 1, lambda: os.kill(os.getpid(), signal.SIGTERM))
        assert call(main.main, *options, "--root_log", tmp_path / "b") == 143
    capsys.readouterr()
    rows = (dataset_folder / "train_split.txt").read_text().splitlines()
    (dataset_folder / "train_split.txt").write_text("\n".join(reversed(rows)) + "\n")
    ended = tmp_path / "a" / FOLDER.replace("_e2", "_e1") / "ckpt.pth.tar"
    assert call(main.main, *options, "--root_log", tmp_path / "c", "--resume", ended) == 0
    assert "warning: not as in the checkpoint: the training split is another list" in capsys.readouterr().out
    assert call(main.main, *options, "--root_log", tmp_path / "b", "--resume", "auto") == 2
    assert "the training split lists others now" in the_error(capsys.readouterr().err)


@pytest.mark.parametrize("given", [["--start_epoch", 2], ["--resume", "other.pth.tar"]])
def test_with_nothing_to_train_an_earlier_run_stays_where_it_is(given, options, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert call(main.main, *options, "--root_log", tmp_path) == 0
    shutil.copyfile(tmp_path / FOLDER / "ckpt.pth.tar", "other.pth.tar")
    before = {path.name: path.read_bytes() for path in (tmp_path / FOLDER).iterdir() if path.is_file()}
    capsys.readouterr()
    assert call(main.main, *options, "--root_log", tmp_path, *given) == 2
    assert "nothing to train" in the_error(capsys.readouterr().err)
    assert {path.name: path.read_bytes() for path in (tmp_path / FOLDER).iterdir() if path.is_file()} == before


def test_more_steps_than_an_epoch_has_are_damage(options, tmp_path, capsys):
    assert call(main.main, *options, "--root_log", tmp_path) == 0
    path = tmp_path / FOLDER / "ckpt.pth.tar"
    torch.save(torch.load(path, weights_only=True) | {"epoch": 1, "step": 10**9}, path)
    assert call(main.main, *options, "--root_log", tmp_path, "--resume", path) == 2
    assert "1000000000 steps" in capsys.readouterr().err
