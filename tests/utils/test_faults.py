"""Failures of the machine are one line that says what to do."""

import argparse
import errno
import os
import time

import pytest
import torch

import main
from ops import engine
from ops.utils import distributed, faults
from ops.utils.errors import UserError
from tests.shared import SMALL_OPTIONS, call_together, the_error

OPTIONS = argparse.Namespace(batch_size=32, patch_size=128, num_segments=48, evaluate=False)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried ..."),
            "--batch_size 32 .*--patch_size 128.*--grad_accum .*--amp_dtype .*--batch_size",
        ),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), "out of GPU memory"),
        (
            RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"),
            "out of GPU memory",
        ),
        (RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be ..."), "out of GPU memory"),
        (
            RuntimeError("NCCL error ... ncclUnhandledCudaError ...\nLast error:\nCuda failure 2 'out of memory'"),
            "out of GPU memory",
        ),
        (
            RuntimeError("DataLoader worker (pid 12) is killed by signal: Killed. "),
            "worker that reads frames is killed by signal: Killed: most likely out of memory; lower --workers",
        ),
        (
            RuntimeError(
                "DataLoader worker (pid 12) is killed by signal: Bus error. It is possible that dataloader's workers "
                "are out of shared memory."
            ),
            "enlarge /dev/shm",
        ),
        (RuntimeError("unable to write to file </torch_1_2>: No space left on device (28) shm"), "enlarge /dev/shm"),
        (OSError(errno.ENOSPC, "No space left on device", "log.csv"), "No space left on device: log.csv"),
    ],
)
def test_known_failures_say_what_to_do(error, message, tmp_path):
    with pytest.raises(UserError, match=message) as caught, faults.explained(OPTIONS, tmp_path):
        raise error
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "checkpoints", "advised"),
    [({}, 1, True), ({}, 0, False), ({"evaluate": True}, 1, False), ({"calibrate_on": "train"}, 1, False)],
)
def test_only_a_training_with_a_checkpoint_is_told_to_go_on(changes, checkpoints, advised, tmp_path):
    for _ in range(checkpoints):
        (tmp_path / "ckpt.pth.tar").touch()
    options = argparse.Namespace(**(vars(OPTIONS) | changes))
    with pytest.raises(UserError, match="out of memory") as caught, faults.explained(options, tmp_path):
        raise MemoryError
    assert ("--resume auto" in str(caught.value)) == advised


def test_unknown_failures_keep_their_traceback(tmp_path):
    with pytest.raises(RuntimeError, match="a bug"), faults.explained(OPTIONS, tmp_path):
        raise RuntimeError("a bug")


def test_a_process_that_hangs_is_named_after_the_time_limit(
    thin_networks, no_pictures, dataset_folder, tmp_path, monkeypatch
):
    original = engine.train_steps

    def hanging(*arguments, **keywords):
        for step in original(*arguments, **keywords):
            if os.environ["RANK"] == "1":
                time.sleep(600)
            yield step

    monkeypatch.setattr(engine, "train_steps", hanging)
    monkeypatch.setattr(distributed, "PATIENCE", 0.5)
    done = call_together(
        main.main, "--dataset", "mine", "--data_dir", dataset_folder, "--root_log", tmp_path / "log", *SMALL_OPTIONS,
        "--epochs", 1, "--time_limit", 0.05, check=False, patience=0,
    )  # fmt: skip
    assert done.returncode != 0
    assert the_error(done.stderr).startswith("error: process 0 lost process 1, which has ended or hangs: ")
