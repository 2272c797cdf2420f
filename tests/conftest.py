"""What pytest does besides running the tests. What test files share is in shared.py."""

import gc
from collections.abc import Iterator

import pytest

from tests.environment import set_defaults

set_defaults()
pytest.register_assert_rewrite("tests.shared")
SLOW_FILES = {
    "test_docs_fine_tuning.py", "test_resume.py", "test_uni_adafocus.py", "test_main.py", "test_whole_runs.py",
    "test_inference.py", "test_benchmark_baseline.py", "test_benchmark_training_curve.py",
}  # fmt: skip


def pytest_configure(config: pytest.Config) -> None:
    """The fixtures of shared.py come with PyTorch, which takes seconds to load: not in a process that has others run
    the tests, and for which they wait."""
    if hasattr(config, "workerinput") or not config.getoption("numprocesses", None):
        gc.disable()  # looking for garbage in what is being imported takes longer than it is worth
        config.pluginmanager.import_plugin("tests.shared")
        gc.enable()
        gc.freeze()  # nobody goes through a million objects that stay, or copies them in forked processes by doing so


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that take longest come first, so that two processes that take one file after another end together."""
    items.sort(key=lambda item: item.path.name not in SLOW_FILES)


def pytest_collection_finish() -> None:
    """What the test files have imported stays as well."""
    gc.freeze()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[None]:
    """A test's networks are gone at its end, rather than several tests later: the memory of one does for the next, and
    memory that is new to a process is slow to get."""
    yield
    gc.collect()
    if nextitem is None or nextitem.path != item.path:
        gc.freeze()  # what this file's tests have imported
