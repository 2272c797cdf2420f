"""Checkpoints damaged in hundreds of ways: each is refused in one line, or is as sound as it says."""

import argparse
import copy
import io
import math
import random
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from ops import checkpoint
from ops.engine import TrainingState
from ops.utils.errors import UserError

VIDEOS, BATCH = 9, 2
OPTIONS = argparse.Namespace(batch_size=BATCH, seed=1)
WRONG = (
    None, True, -1, 3, 2**70, 1e300, math.nan, math.inf, -math.inf, "", "abc", b"\xff", (), [], {}, [[]], {1: 2},
    (1, 2, 3), 1j, torch.tensor(math.nan), torch.zeros(0), torch.zeros(2, 3).to_sparse(), torch.zeros(3, device="meta"),
    torch.tensor([1 + 1j]), torch.zeros(1).expand(10**12), torch.full((3, 2), math.inf), torch.ones(3).byte(),
    torch.nn.Parameter(torch.ones(2)), torch.float16,
    torch.zeros(2, 3, dtype=torch.int64), torch.Size([2]), {"a": {"b": [None]}},
)  # fmt: skip


def training(scaled: bool = True) -> TrainingState:
    """The smallest training there is."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    return TrainingState(model, model, optimizer, torch.amp.GradScaler("cpu", enabled=scaled))


def step(state: TrainingState) -> None:
    state.optimizer.zero_grad()
    state.scaler.scale(state.model(torch.ones(2, 3)).square().sum()).backward()
    state.scaler.step(state.optimizer)
    state.scaler.update()


@pytest.fixture(scope="module")
def content() -> dict[str, Any]:
    state = training()
    step(state)
    state.epoch, state.step, state.best, state.losses = 3, 2, 50.0, ([1.0, 2.0], 2)
    state.replaced = {1: 6, 8: 2}
    return checkpoint.content_of(state, vars(OPTIONS) | {"lr_steps": [0.0, 0.0], "resume": "auto"}, VIDEOS)


def places(value: Any, path: tuple = ()) -> Iterator[tuple]:
    """The path of everything in a nested value."""
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, (list, tuple)) else ()
    for key, part in parts:
        yield (*path, key)
        yield from places(part, (*path, key))


def changed(value: Any, path: tuple, new: Any) -> Any:
    """A copy with another value at a path; without that, where the new value is `places` itself."""
    if not path:
        return new
    key, *rest = path
    parts = list(value.items()) if isinstance(value, dict) else list(enumerate(value))
    parts = [(name, changed(part, tuple(rest), new) if name == key else part) for name, part in parts]
    parts = [(name, part) for name, part in parts if part is not places]
    return dict(parts) if isinstance(value, dict) else type(value)(part for _, part in parts)


def saved(content: Any, **how: Any) -> bytes:
    torch.save(content, file := io.BytesIO(), **how)
    return file.getvalue()


def refused_or_sound(folder) -> bool:
    """Whether a training goes on from the newest checkpoint or the one before it; if not, in one line."""
    state = training()
    try:
        found, problems = checkpoint.find("auto", folder)
        checkpoint.restore(state, found, OPTIONS, VIDEOS)
    except UserError as error:
        assert "\n" not in str(error) and len(str(error)) < 1500
        return False
    assert all("\n" not in problem for problem in problems)
    assert state.epoch >= 0 and 0 <= state.step <= VIDEOS // BATCH
    assert all(0 <= row < VIDEOS and 0 <= frames < 2**31 for row, frames in state.replaced.items())
    assert state.best is None or math.isfinite(state.best)
    step(state)
    assert all(value.isfinite().all() for value in state.model.state_dict().values())
    return True


@pytest.mark.parametrize("seed", range(2))
def test_any_value_anywhere_is_refused_or_used_as_it_is(seed, content, tmp_path):
    draw, everywhere = random.Random(seed), list(places(content))
    for _ in range(150):
        bad = copy.deepcopy(content)
        for _ in range(draw.choice((1, 1, 1, 2))):
            path = draw.choice(everywhere)
            try:
                bad = changed(bad, path, draw.choice((*WRONG, places)))
            except (TypeError, AttributeError, RuntimeError):  # the first change has taken the place of the second
                continue
        try:
            (tmp_path / checkpoint.LAST).write_bytes(saved(bad))
        except RuntimeError:  # torch.save refuses the value itself, so no file can hold it
            continue
        refused_or_sound(tmp_path)


def test_a_file_that_memory_does_not_hold_falls_back_too(content, tmp_path, monkeypatch):
    for name in (checkpoint.LAST, "ckpt.1.pth.tar", "ckpt.1_copy.pth.tar"):  # the last is not one of ours
        (tmp_path / name).write_bytes(saved(content))
    load = torch.load
    for error in (
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
    ):

        def scarce(path, *arguments, error=error, **settings):
            if path.name == checkpoint.LAST:
                raise error
            return load(path, *arguments, **settings)

        monkeypatch.setattr(torch, "load", scarce)
        assert refused_or_sound(tmp_path)


@pytest.mark.parametrize("legacy", [False, True])
def test_damaged_bytes_fall_back_to_the_checkpoint_before(legacy, content, tmp_path):
    draw = random.Random(legacy)
    (tmp_path / "ckpt.1.pth.tar").write_bytes(saved(content))
    whole = saved(content, _use_new_zipfile_serialization=not legacy)
    for _ in range(60):
        damaged, place = bytearray(whole), draw.randrange(len(whole))
        match draw.randrange(4):
            case 0:
                del damaged[place:]
            case 1:
                damaged[place] ^= 1 << draw.randrange(8)
            case 2:
                damaged[place : place + draw.randrange(1, 200)] = draw.randbytes(draw.randrange(100))
            case 3:
                damaged[place:place] = draw.choice((b"\x80\x02(((((", b"0" * 512, b"\0" * 300, b"PK\3\4"))
        for name in (checkpoint.LAST, checkpoint.BEST):
            (tmp_path / name).write_bytes(damaged)
        assert legacy or (best := checkpoint.best_in(tmp_path, "mAP")) is None or best.best == 50.0
        assert refused_or_sound(tmp_path) or legacy  # which have no checksums: a name, for instance, may be another now
