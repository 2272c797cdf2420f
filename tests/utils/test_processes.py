"""Jobs spread over processes."""

import multiprocessing
import os
import signal
import threading
import time
from types import SimpleNamespace

import pytest

from ops.utils import processes
from ops.utils.processes import WorkerDied, run_jobs


def prepare():
    os.environ["PREPARED"] = "yes"


def double(job, report):
    if job == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    report(1)
    return 2 * job, os.environ.get("PREPARED"), os.getpid()


def wait_and_tidy_up(job, report):
    mark, tidied = job
    try:
        mark.touch()
        time.sleep(60)
    finally:
        tidied.touch()


@pytest.mark.parametrize("workers", [1, 2])
def test_every_job_is_done_once_and_its_progress_counted(workers, monkeypatch):
    monkeypatch.delenv("PREPARED", raising=False)
    reported = []
    results = dict(run_jobs(double, range(8), workers, reported.append, prepare))
    assert {job: result[0] for job, result in results.items()} == {job: 2 * job for job in range(8)}
    assert sum(reported) == 8
    in_this_process = {result[2] == os.getpid() for result in results.values()}
    assert in_this_process == {workers == 1}
    assert {result[1] for result in results.values()} == {None if workers == 1 else "yes"}


def test_progress_counts_once_however_often_it_is_told(monkeypatch):
    monkeypatch.setattr(processes, "_PROGRESS_SECONDS", 0)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    jobs, told = [1, 2], []

    def receive():
        if not jobs:
            raise EOFError
        return jobs.pop()

    processes._serve(SimpleNamespace(recv=receive, send=told.append), report_thrice, None)
    assert [value for finished, value in told if finished] == [2, 1]
    assert sum(amount for finished, amount in told if not finished) == 6


def report_thrice(job, report):
    for _ in range(3):
        report(1)
    return job


def test_a_job_that_kills_its_process_costs_no_other_job():
    results = dict(run_jobs(double, [1, "die", 2, 3, 4], 2, lambda _: None, prepare))
    assert isinstance(results["die"], WorkerDied) and "signal 9" in results["die"]
    assert [results[job][0] for job in (1, 2, 3, 4)] == [2, 4, 6, 8]


def test_a_caller_that_leaves_early_lets_the_jobs_tidy_up(tmp_path):
    jobs = [(tmp_path / f"started {number}", tmp_path / f"tidied {number}") for number in range(2)]
    running = run_jobs(wait_and_tidy_up, [*jobs, "die"], 2, lambda _: None, InterruptWhenStarted(jobs))
    with pytest.raises(KeyboardInterrupt):
        next(running)
    assert all(tidied.exists() for _, tidied in jobs)


class InterruptWhenStarted:
    """As `initialise`: one of the processes sends Ctrl-C to the parent when all jobs have started."""

    def __init__(self, jobs):
        self.marks = [mark for mark, _ in jobs]

    def __call__(self):
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self):
        while not all(mark.exists() for mark in self.marks):
            time.sleep(0.05)
        try:
            self.marks[0].with_name("sent").touch(exist_ok=False)
        except FileExistsError:
            return
        os.kill(os.getppid(), signal.SIGINT)


def test_ctrl_c_while_processes_start_leaves_them_to_their_parent():
    """It reaches the whole group; a process that is still importing would end with a traceback."""
    busy = {}
    processes._start_worker(double, None, 3, busy)
    ((connection, (process, _)),) = busy.items()
    os.kill(process.pid, signal.SIGINT)
    assert connection.recv() == (False, 1)
    assert connection.recv()[1][0] == 6
    connection.close()
    process.join()
    assert process.exitcode == 0


def test_a_process_without_more_jobs_ends_quietly_on_a_signal():
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    here, there = multiprocessing.Pipe()
    here.close()
    try:
        processes._serve(there, double, None)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL  # nothing is raised where nothing can be tidied up
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
