"""ops/early_exit/logits.py: logits are kept, and computed again when what they depend on changed."""

import io
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from dataset_config import get_dataset
from ops.data.dataset import VideoDataset
from ops.early_exit import logits as exit_logits
from ops.early_exit.logits import FILE_NAME, kept_or_computed
from ops.early_exit.thresholds import MODEL_SIZES, Weights, file_hash
from ops.utils.errors import UserError
from ops.utils.session import Run
from ops.utils.signals import StopRequest

MODEL = {name: number for number, name in enumerate(MODEL_SIZES)} | {"num_focus_segments": 2, "num_classes": 4}


@pytest.fixture
def computed(monkeypatch) -> list[str]:
    """The splits that were computed, each time with other logits."""
    splits: list[str] = []

    def compute(model, dataset, *_):
        splits.append(dataset.split)
        logits = torch.full((len(dataset), model.num_focus_segments + 1, model.num_classes), float(len(splits)))
        return {"logits": logits, "focus_indices": torch.zeros(len(dataset), 2).long()}

    monkeypatch.setattr(exit_logits, "compute", compute)
    return splits


@pytest.fixture
def get(computed, dataset_folder, tmp_path):
    """A function that gets the logits of a split as a run would, and what it says."""
    said: list[str] = []

    def get(
        split: str = "val", checkpoint_hash: str = "a" * 64, seed: int = 0, precision: str = "float32", **sizes: object
    ) -> torch.Tensor:
        config = get_dataset("mine", dataset_folder)
        dataset = VideoDataset(config, split, num_segments=6, input_size=64, training=split == "train", seed=seed)
        said.clear()
        model = SimpleNamespace(**(MODEL | sizes))
        options = SimpleNamespace(batch_size=2, val_batch_size=None, workers=0, print_freq=1, eval_precision=precision)
        log = SimpleNamespace(folder=tmp_path, line=said.append)
        run = Run(options, torch.device("cpu"), log, StopRequest())
        return kept_or_computed(run, model, dataset, Weights(tmp_path / "weights", checkpoint_hash))

    get.said = said
    return get


def test_the_second_time_nothing_is_computed(get, computed):
    first = {split: get(split) for split in ("train", "val")}
    assert all(torch.equal(get(split), logits) for split, logits in first.items())
    assert computed == ["train", "val"]
    assert get.said[0].endswith("has the val logits of this checkpoint and these options: only the curves are computed")


def test_the_file_says_what_it_holds(get, tmp_path):
    get("val")
    with np.load(tmp_path / FILE_NAME) as file:
        assert file["val_logits"].shape == (5, 3, 4) and file["val_logits"].dtype == np.float32
        assert file["val_labels"].tolist() == [[n % 4, -1, -1] for n in range(5)]
        assert file["val_focus_indices"].shape == (5, 2)
        assert file["val_video"].tolist() == [f"val{n}" for n in range(5)]


@pytest.mark.parametrize("name", MODEL_SIZES)
def test_another_model_has_its_logits_computed(name, get, computed):
    get()
    again = get(**{name: 99})
    assert computed == ["val", "val"] and again[0, 0, 0] == 2
    assert f"the val logits are not of this run ({name} {MODEL[name]} -> 99); computing them again" in get.said[0]
    get(**{name: 99})
    assert computed == ["val", "val"]


def test_another_checkpoint_has_its_logits_computed(get, computed):
    get()
    get(checkpoint_hash="b" * 64)
    assert computed == ["val", "val"] and "(checkpoint aaaaaaaaaaaa -> bbbbbbbbbbbb)" in get.said[0]


def test_another_split_file_has_its_logits_computed(get, computed, dataset_folder):
    get("train"), get("val")
    (dataset_folder / "val_split.txt").write_text("val3,8,3\nval1,8,1\n")
    assert len(get("val")) == 2 and len(get("train")) == 4
    assert computed == ["train", "val", "val"]


def test_frames_in_another_place_have_their_logits_computed(get, computed, dataset_folder):
    get()
    (dataset_folder / "frames").rename(dataset_folder / "elsewhere")
    (dataset_folder / "frames").symlink_to("elsewhere")
    get()
    assert computed == ["val", "val"] and "(frames " in get.said[0]


def test_the_seed_matters_for_the_training_split_alone(get, computed):
    get("train"), get("val")
    get("train", seed=1), get("val", seed=1)
    assert computed == ["train", "val", "train"]


def test_another_precision_has_its_logits_computed(get, computed):
    get(), get(precision="bfloat16"), get(precision="bfloat16")
    assert computed == ["val", "val"]


def _with(**arrays: object):
    """Damage to the content: other arrays, or none where they are None."""

    def damage(content: bytes) -> bytes:
        with np.load(io.BytesIO(content)) as file:
            kept = {name: file[name] for name in file.files} | arrays
        np.savez(changed := io.BytesIO(), **{name: array for name, array in kept.items() if array is not None})
        return changed.getvalue()

    return damage


def _array(content: bytes) -> bytes:
    np.save(alone := io.BytesIO(), np.zeros(3))
    return alone.getvalue()


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-30], lambda content: b"", lambda content: b"nonsense", lambda content: b"\x80",
        lambda content: content.replace(b"<f4", b"<q9"), _array,
        lambda content: content[:1000] + bytes(100) + content[1100:],
        *(_with(val_depends_on=np.array(text)) for text in ("", "7", "null", "[1]", "[" * 10**5)),
        _with(val_depends_on=np.zeros(3)), _with(val_logits=None), _with(val_logits=np.zeros((5, 3), np.float32)),
        _with(val_logits=np.zeros((4, 3, 4), np.float32)), _with(val_logits=np.zeros((5, 3, 4))),
        _with(val_logits=np.full((5, 3, 4), np.nan, np.float32)), _with(val_logits=np.array("text")),
        _with(val_logits=np.array([{}], dtype=object)),
    ],
)  # fmt: skip
def test_a_damaged_file_is_replaced(damage, get, computed, tmp_path):
    get("train"), get()
    path = tmp_path / FILE_NAME
    path.write_bytes(damage(path.read_bytes()))
    get()
    assert computed == ["train", "val", "val"]
    assert all(word in get.said[0] for word in (FILE_NAME, "computing")) and "\n" not in get.said[0]
    get()
    assert computed == ["train", "val", "val"]


def test_logits_that_are_not_finite_are_an_error_with_the_video_and_not_kept(get, monkeypatch, tmp_path):
    logits = torch.zeros(5, 3, 4)
    logits[3, 1, 2] = float("nan")
    monkeypatch.setattr(exit_logits, "compute", lambda *_: {"logits": logits})
    with pytest.raises(UserError, match="not finite for 1 of 5 videos, first 'val3'"):
        get()
    assert not (tmp_path / FILE_NAME).exists()


def test_a_hash_is_that_of_sha256sum(tmp_path):
    (tmp_path / "file").write_bytes(b"abc")
    assert file_hash(tmp_path / "file") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    with pytest.raises(UserError, match="cannot read"):
        file_hash(tmp_path / "nowhere")
