"""Checkpoint files: the published layout, both ways; and files that are not what they should be."""

import os
import pickle
import re
import resource
import stat
import tarfile
from argparse import Namespace

import numpy as np
import pytest
import torch

from models.uni_adafocus import UniAdaFocus
from ops import checkpoint
from ops.engine import TrainingState
from ops.optim import build_optimizer
from ops.utils.errors import UserError
from tests.shared import SMALL

RATIOS = {"temporal_lr_ratio": 0.2, "stn_lr_ratio": 0.2, "global_lr_ratio": 0.5, "classifier_lr_ratio": 20.0}


def _optimizer(model: UniAdaFocus) -> torch.optim.SGD:
    return build_optimizer(model, lr=0.1, momentum=0.9, weight_decay=0, **RATIOS)


def _published_file(model: UniAdaFocus, path):
    """A file as the published code writes it: names of DistributedDataParallel, every parameter in the optimizer."""
    parameters = [parameter for group in model.parameter_groups(*RATIOS.values()) for parameter in group["params"]]
    groups, number = [], 0
    for group in model.parameter_groups(*RATIOS.values()):
        numbers = list(range(number, number + len(group["params"])))
        number += len(numbers)
        groups.append({"lr": 0.1, "momentum": 0.9, "weight_decay": 0.0, "params": numbers})
    momenta = {i: {"momentum_buffer": torch.full_like(p, float(i))} for i, p in enumerate(parameters)}
    content = {
        "epoch": 7,
        "state_dict": {f"module.{name}": value for name, value in model.state_dict().items()},
        "best_acc1": np.float64(80.7),
        "optimizer": {"state": momenta, "param_groups": groups},
    }
    torch.save(content, path)
    return path


def test_a_published_file_loads_strictly_with_its_momenta(small_model, tmp_path):
    path = _published_file(small_model, tmp_path / "published.pth.tar")
    other = UniAdaFocus(4, **SMALL)
    loaded = checkpoint.read(path)
    checkpoint.load_strictly(other, loaded.state_dict, path)
    optimizer = _optimizer(other)
    checkpoint.load_optimizer(optimizer, loaded.momenta, path)

    assert all(torch.equal(a, b) for a, b in zip(other.parameters(), small_model.parameters(), strict=True))
    assert (loaded.epoch, loaded.best) == (7, 80.7)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    assert all(float(optimizer.state[p]["momentum_buffer"].mean()) == i for i, p in enumerate(parameters))
    assert [group["lr"] for group in optimizer.param_groups][:1] == [pytest.approx(0.02)]


def test_our_file_has_the_published_layout(small_model, tmp_path):
    optimizer = _optimizer(small_model)
    checkpoint.save(
        checkpoint.content_of(
            TrainingState(small_model, small_model, optimizer, torch.amp.GradScaler("cpu"), epoch=3, best=12.5), {}, 6
        ),
        tmp_path / "ours.pth.tar",
    )
    raw = torch.load(tmp_path / "ours.pth.tar", weights_only=True)
    assert {"epoch", "state_dict", "optimizer", "best_acc1", "scaler"} <= set(raw)
    assert list(raw["state_dict"]) == [f"module.{name}" for name in small_model.state_dict()]
    numbers = [number for group in raw["optimizer"]["param_groups"] for number in group["params"]]
    assert numbers == list(range(len(list(small_model.parameters()))))


def test_saving_leaves_one_file_readable_as_the_umask_says(small_model, tmp_path):
    umask = os.umask(0o027)
    try:
        checkpoint.save({"state_dict": {}}, tmp_path / "ckpt.pth.tar")
    finally:
        os.umask(umask)
    assert [path.name for path in tmp_path.iterdir()] == ["ckpt.pth.tar"]
    assert stat.S_IMODE((tmp_path / "ckpt.pth.tar").stat().st_mode) == 0o640


def test_a_failed_save_keeps_the_file_before_and_leaves_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "ckpt.pth.tar"
    path.write_bytes(b"before")

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(UserError, match=r"cannot write .*ckpt\.pth\.tar: No space left on device; the checkpoint"):
        checkpoint.save({"state_dict": {}}, path)
    assert path.read_bytes() == b"before" and list(tmp_path.iterdir()) == [path]


def test_a_disk_that_fills_up_while_saving_is_named(tmp_path):
    path, limits = tmp_path / "ckpt.pth.tar", resource.getrlimit(resource.RLIMIT_FSIZE)
    path.write_bytes(b"before")
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(UserError, match=r"cannot write .*ckpt\.pth\.tar: File too large; the checkpoint before"):
            checkpoint.save({"state_dict": {"a": torch.zeros(50_000)}}, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == b"before" and list(tmp_path.iterdir()) == [path]


class _Payload:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.system, (f"touch {self.target}",)


def test_a_file_that_would_run_code_is_refused_and_runs_nothing(tmp_path):
    torch.save({"state_dict": {"a": torch.zeros(1)}, "extra": _Payload(tmp_path / "ran")}, tmp_path / "bad.pth.tar")
    with pytest.raises(UserError, match="wants to run code on loading, which is refused"):
        checkpoint.read(tmp_path / "bad.pth.tar")
    assert not (tmp_path / "ran").exists()


def test_options_in_a_namespace_are_read_but_nothing_in_it_that_would_run_code(tmp_path):
    for zipped in (True, False):
        content = {"state_dict": {"a": torch.zeros(1)}, "args": Namespace(lr=0.1, name="x", steps=[1, 2], gpu=None)}
        torch.save(content, tmp_path / "args.pth.tar", _use_new_zipfile_serialization=zipped)
        assert checkpoint.read(tmp_path / "args.pth.tar").state_dict.keys() == {"a"}
        torch.save(content | {"args": Namespace(x=_Payload(tmp_path / "ran"))}, tmp_path / "bad.pth.tar")
        with pytest.raises(UserError, match="wants to run code on loading, which is refused"):
            checkpoint.read(tmp_path / "bad.pth.tar")
    assert not (tmp_path / "ran").exists()


def test_a_checkpoint_without_permission_says_so(tmp_path, monkeypatch):
    def refuse(path, **settings):
        raise PermissionError(13, "Permission denied", str(path))

    torch.save({"state_dict": {}}, tmp_path / "locked.pth.tar")
    monkeypatch.setattr(torch, "load", refuse)
    with pytest.raises(UserError, match=r"locked\.pth\.tar cannot be read .Permission denied.; check its permissions"):
        checkpoint.read(tmp_path / "locked.pth.tar")


def test_files_that_are_no_checkpoints_are_refused_in_one_line(tmp_path):
    (tmp_path / "text").write_text("not a checkpoint")
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "pickle").write_bytes(pickle.dumps([1, 2]))
    torch.save([torch.zeros(2)], tmp_path / "list")
    torch.save({"weights": torch.zeros(2)}, tmp_path / "other")
    whole = tmp_path / "whole"
    torch.save({"state_dict": {"a": torch.zeros(1000)}}, whole)
    (tmp_path / "half").write_bytes(whole.read_bytes()[:2000])
    with tarfile.open(tmp_path / "tar", "w") as archive:
        archive.add(whole, "storages")
    (tmp_path / "marks").write_bytes(b"\x80\x02" + b"(" * 10**5)
    (tmp_path / "nested").write_bytes(b"\x80\x02" + b"]" * 10**5 + b"a" * (10**5 - 1) + b".")
    for name in ("text", "empty", "pickle", "list", "other", "half", "tar", "marks", "nested"):
        with pytest.raises(UserError, match=f"{name} is not a checkpoint") as caught:
            checkpoint.read(tmp_path / name)
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="absent does not exist"):
        checkpoint.read(tmp_path / "absent")
    with pytest.raises(UserError, match="is not a file"):
        checkpoint.read(tmp_path)


SOUND = {
    "epoch": 3, "step": 2, "losses": ([1.0, 2.0], 2), "best_acc1": 50.0, "videos": 9, "replaced_frames": {8: 2},
    "optimizer": {"state": {}, "param_groups": []},
    "random_states": [torch.zeros(8, dtype=torch.uint8)], "options": {"seed": 1},
    "scaler": torch.amp.GradScaler("cpu").state_dict(),
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epoch", "abc"), ("epoch", -1), ("epoch", True), ("epoch", 1.5), ("step", -3), ("step", [1]),
        ("best_acc1", float("nan")), ("best_acc1", "70"), ("best_acc1", torch.zeros(2)), ("losses", ([1.0], -1)),
        ("losses", ([float("inf")], 1)), ("losses", 7), ("optimizer", [1]), ("optimizer", {"state": {}}),
        ("replaced_frames", [1]), ("replaced_frames", {"a": 1}), ("replaced_frames", {0: -1}),
        ("replaced_frames", {0: 2**31}), ("videos", "many"), ("options", ["seed"]), ("options", {1: 2}),
        ("random_states", torch.zeros(2)), ("random_states", [torch.zeros(8)]),
        ("scaler", {"scale": float("nan")}), ("state_dict", {"a": 1}), ("state_dict", {1: torch.zeros(1)}),
        ("state_dict", {"a": torch.zeros(2).to_sparse()}), ("state_dict", [torch.zeros(1)]),
        ("state_dict", {"a": torch.tensor([1.0, float("nan")])}), ("state_dict", {"a": torch.zeros(1).expand(1000)}),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_by_its_name(name, value, tmp_path):
    content = {"state_dict": {"module.a": torch.zeros(1)}, **SOUND}
    torch.save(content, tmp_path / "sound.pth.tar")
    found = checkpoint.read(tmp_path / "sound.pth.tar")
    assert (found.epoch, found.step, found.best, found.videos) == (3, 2, 50.0, 9) and found.replaced == {8: 2}
    assert list(found.state_dict) == ["a"]
    torch.save(content | {name: value}, tmp_path / "odd.pth.tar")
    with pytest.raises(UserError, match=rf"odd\.pth\.tar is damaged: its `{name}` ") as caught:
        checkpoint.read(tmp_path / "odd.pth.tar")
    assert "\n" not in str(caught.value)


def test_a_checkpoint_of_other_sizes_names_the_tensors_and_both_shapes(small_model, tmp_path):
    path = _published_file(UniAdaFocus(5, **(SMALL | {"num_focus_segments": 3})), tmp_path / "other.pth.tar")
    expected = re.escape("global_CNN_fc.1.weight is [5, 1280] in the file, [4, 1280] in the model")
    with pytest.raises(UserError, match=expected) as caught:
        checkpoint.load_strictly(small_model, checkpoint.read(path).state_dict, path)
    assert "classifier.local_classifiers.2.1.weight is not known to the model" in str(caught.value)


def test_an_optimizer_of_another_model_is_refused(small_model, tmp_path):
    with pytest.raises(UserError, match="the optimizer in x has 1 parameters, the model"):
        checkpoint.load_optimizer(_optimizer(small_model), [None], "x")


def test_a_changed_byte_is_noticed(tmp_path):
    path = tmp_path / "changed.pth.tar"
    torch.save({"state_dict": {"a": torch.zeros(1000)}}, path)
    content = bytearray(path.read_bytes())
    place = content.index(bytes(1000)) + 500
    content[place : place + 4] = b"\xff\xff\xff\x7f"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"changed\.pth\.tar is damaged: the checksum of .* is wrong"):
        checkpoint.read(path)


def test_a_training_goes_on_with_all_that_it_was_stopped_with(thin_model, thin_networks, tmp_path):
    def state_of(model: UniAdaFocus, scale: float, **rest: object) -> TrainingState:
        return TrainingState(model, model, _optimizer(model), torch.amp.GradScaler("cpu", init_scale=scale), **rest)

    before = state_of(thin_model, 512.0, epoch=4, step=1, losses=([1.5], 1), best=37.5)
    for entry in before.optimizer.state.values():
        entry["momentum_buffer"].normal_()
    options = {"batch_size": 2, "seed": 3}
    checkpoint.save(checkpoint.content_of(before, options, videos=6), tmp_path / "ckpt.pth.tar")
    drawn = torch.rand(3)
    after = state_of(UniAdaFocus(4, **SMALL), 2.0)
    checkpoint.restore(after, checkpoint.read(tmp_path / "ckpt.pth.tar"), Namespace(**options), videos=6)
    assert torch.equal(torch.rand(3), drawn)
    assert (after.epoch, after.step, after.losses, after.best) == (4, 1, ([1.5], 1), 37.5)
    assert after.scaler.get_scale() == 512
    for name, value in thin_model.state_dict().items():
        assert torch.equal(after.model.state_dict()[name], value), name
    momenta = [[entry["momentum_buffer"] for entry in state.optimizer.state.values()] for state in (before, after)]
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(*momenta, strict=True))
