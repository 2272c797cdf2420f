"""How many CPU cores there are for this process: what numbers of processes and threads follow from."""

import os

MOST_WORKERS = 16  # as published; at 19 videos/s each, enough for one H100, which trains on 196


def available_cores() -> int:
    """Cores that this process may use, 1 or more: on a shared machine fewer than it has, as a scheduler or a container
    allows."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def default_workers() -> int:
    """Processes that read frames for this one, 1..16: its share of the cores where a launcher started several here."""
    processes = os.environ.get("LOCAL_WORLD_SIZE", "")
    return workers_of_each(int(processes) if processes.isdecimal() else 1)


def workers_of_each(programs: int) -> int:
    """Processes that read frames for each of as many programs at a time, 1..16."""
    return min(max(1, available_cores() // max(1, programs)), MOST_WORKERS)
