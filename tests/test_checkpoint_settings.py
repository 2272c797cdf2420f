"""ops/checkpoint_settings.py: the model of a checkpoint, without anyone saying its sizes."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from models.uni_adafocus import UniAdaFocus
from ops.checkpoint import Checkpoint
from ops.checkpoint_settings import PUBLISHED, model_of_checkpoint, settings_of_checkpoint, sizes_of_tensors
from ops.utils.errors import UserError
from tests.shared import SMALL

PATH = Path("some.pth.tar")
ODD = {
    "num_classes": 3, "num_segments": 10, "num_glance_segments": 5, "num_focus_segments": 2, "patch_size": 44,
    "input_size": 96, "stn_hidden_dim": 8, "temporal_hidden_dim": 6, "temperature": 2.0, "dropout": 0.0,
    "fc_dropout": 0.5, "glance_arch": "res50",
}  # fmt: skip
KEPT = {name: ODD[name] for name in PUBLISHED}


def checkpoint_with(state_dict: dict, options: dict | None = None) -> Checkpoint:
    """A file with these weights and options and nothing else."""
    return Checkpoint(PATH, state_dict, None, 0, None, {}, None, None, None, None, (), options or {}, None, {})


@pytest.fixture(scope="module")
def odd() -> Checkpoint:
    """A checkpoint of a network of unusual sizes, with its options."""
    torch.manual_seed(0)
    return checkpoint_with(UniAdaFocus(**ODD).state_dict(), {**KEPT, "epochs": 7})


@pytest.fixture(scope="module")
def published() -> Checkpoint:
    """A checkpoint with the published sizes that keeps no options; it stays on the device that computes nothing."""
    with torch.device("meta"):
        return checkpoint_with(UniAdaFocus(200).state_dict())


def test_settings_come_from_the_tensors_and_the_options_in_the_file(odd):
    assert settings_of_checkpoint(odd) == ODD
    assert settings_of_checkpoint(odd, KEPT) == ODD  # said again
    model = model_of_checkpoint(odd)
    assert not model.training and model.temperature == 2.0 and model.patch_size == 44
    for name, value in model.state_dict().items():
        assert torch.equal(value, odd.state_dict[name])


def test_a_published_checkpoint_has_the_published_settings_unless_an_option_says_otherwise(published):
    sizes = {"num_classes": 200, "num_glance_segments": 16, "num_focus_segments": 16, "input_size": 224}
    sizes |= {"stn_hidden_dim": 128, "temporal_hidden_dim": 64, "glance_arch": "mbv2"}
    assert sizes_of_tensors(published.state_dict, PATH) == sizes
    assert settings_of_checkpoint(published) == sizes | PUBLISHED
    changed = settings_of_checkpoint(published, {"num_segments": 64, "patch_size": 160, "temperature": None})
    assert changed == sizes | PUBLISHED | {"num_segments": 64, "patch_size": 160}


@pytest.mark.parametrize(("name", "value"), [("num_segments", 48), ("patch_size", 128), ("temperature", 1.0)])
def test_an_option_that_contradicts_the_checkpoint_is_refused(odd, name, value):
    with pytest.raises(UserError, match=rf"^--{name} {value:g} contradicts checkpoint some\.pth\.tar, .* {KEPT[name]}"):
        settings_of_checkpoint(odd, {name: value})


def test_settings_that_do_not_go_together_name_the_option_to_give(small_model):
    found = checkpoint_with(small_model.state_dict())
    with pytest.raises(UserError, match=r"patch_size \(128\) must be from 27 to 64 .*--patch_size"):
        model_of_checkpoint(found)
    with pytest.raises(UserError, match=r"num_segments \(7\) must be a multiple .*--num_segments"):
        model_of_checkpoint(found, {"patch_size": SMALL["patch_size"], "num_segments": 7})


@pytest.mark.parametrize(
    "options",
    [
        {"patch_size": "big"}, {"num_segments": True}, {"num_segments": 10.0}, {"num_segments": 10**12},
        {"patch_size": -44}, {"temperature": float("nan")}, {"temperature": 0}, {"dropout": float("inf")},
    ],
)  # fmt: skip
def test_options_that_are_no_settings_are_refused(odd, options):
    with pytest.raises(UserError, match=r"checkpoint some\.pth\.tar: its"):
        settings_of_checkpoint(replace(odd, options=options))


def test_checkpoints_of_other_networks_are_refused(odd):
    state = odd.state_dict
    without = {name: value for name, value in state.items() if "Tconv" not in name}
    with pytest.raises(UserError, match=r"not of a Uni-AdaFocus network: it has no temporal_policy\.Tconv\.0\.weight"):
        model_of_checkpoint(checkpoint_with(without))
    with pytest.raises(UserError, match="unknown glance network, of 99 features"):
        model_of_checkpoint(checkpoint_with(state | {"global_CNN_fc.1.weight": torch.zeros(3, 99)}))
    # A network of these sizes would take terabytes.
    wide = state | {"spatial_policy.encoder.0.weight": torch.zeros(1).expand(10**6, 2048, 1, 1, 1)}
    with pytest.raises(UserError, match=r"spatial_policy\.encoder\.1\.weight is \[8\] in the file, \[1000000\] in the"):
        model_of_checkpoint(replace(odd, state_dict=wide))
    other = state | {"aux_fc.weight": torch.zeros(4, 2048)}
    with pytest.raises(UserError, match=r"aux_fc\.weight is \[4, 2048\] in the file, \[3, 2048\] in the model"):
        model_of_checkpoint(replace(odd, state_dict=other))
