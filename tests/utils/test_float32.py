"""ops/utils/float32.py: TF32 is off for the time of a block, whatever ends it."""

import pytest
import torch

from ops.utils.float32 import float32_convolutions


@pytest.mark.parametrize("before", [True, False])
def test_convolutions_are_float32_in_the_block_and_as_before_after_it(monkeypatch, before):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", before)
    with pytest.raises(KeyError), float32_convolutions():
        assert not torch.backends.cudnn.allow_tf32
        raise KeyError
    assert torch.backends.cudnn.allow_tf32 is before
