"""ops/utils/waiting.py: what the entry scripts tell OpenMP, and that the user's word counts more."""

import os

import pytest

from ops.utils.errors import run_entry
from ops.utils.waiting import wait_briefly


def test_threads_are_told_to_wait_briefly_before_main_loads_torch(monkeypatch):
    monkeypatch.setattr(os, "environ", {})
    seen = []
    with pytest.raises(SystemExit):
        run_entry(lambda: seen.append(dict(os.environ)))
    assert seen == [{"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "3000"}]


def test_what_the_user_has_set_stays(monkeypatch):
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    wait_briefly()
    assert os.environ["GOMP_SPINCOUNT"] == "7" and os.environ["OMP_WAIT_POLICY"] == "ACTIVE"
