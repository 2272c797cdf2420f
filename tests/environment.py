"""What processes of tests have in their environment, and those that they start: said before torch is loaded."""

import os

DEFAULTS = {
    "OMP_WAIT_POLICY": "PASSIVE",  # test runs share the cores
    "GOMP_SPINCOUNT": "0",
    "OMP_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "",  # bits are promised on CPUs; see test_cuda_without_gpu.py
    "MALLOC_MMAP_MAX_": "0",  # for processes to come: freed memory is kept, not cleared and asked for
    "MALLOC_TRIM_THRESHOLD_": str(2**30),
    "TORCHINDUCTOR_VEC_ISA_OK": "0",  # where nothing is compiled yet, finding out takes as long as compiling
}


def set_defaults() -> None:
    """Set what is not set."""
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
