"""Thin networks are thin: where a builder is no longer reached, tests would be right but slow."""

from models.uni_adafocus import UniAdaFocus
from tests.shared import SMALL


def test_thin_networks_are_thin(thin_networks):
    assert sum(parameter.numel() for parameter in UniAdaFocus(4, **SMALL).parameters()) < 5e6
