"""`--compile`: the two backbones run by torch.compile, in training and in evaluation.

Compiling takes a minute or more at the start, and again where an evaluation begins. It needs a C++ compiler on a CPU,
and Triton on a GPU.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from models.uni_adafocus import UniAdaFocus
from ops.utils.errors import UserError


def compile_backbones(model: UniAdaFocus) -> None:
    """Let the backbones be compiled when they first train; parameters, their names and the numbers stay the same.

    In evaluation they run as before: for that, `prepare_for_inference` makes other networks, and compiles those.
    """
    for backbone in (model.global_CNN, model.local_CNN):
        backbone.forward = _compiled_in_training(backbone)


def _compiled_in_training(backbone: nn.Module) -> Callable[[Tensor], Tensor]:
    as_it_is, compiled = backbone.forward, torch.compile(backbone.forward)
    return lambda images: (compiled if backbone.training else as_it_is)(images)


def check_compiler(device: torch.device) -> None:
    """Raise UserError where torch.compile does not work on the device, which it is tried on with one addition."""
    try:
        torch.compile(lambda numbers: numbers + 1)(torch.zeros(8, device=device))
    except Exception as error:  # of many kinds: no compiler, no Python headers, no Triton, an unsupported Python
        lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        needed = (
            "a C++ compiler such as g++ (or its path in CXX)" if device.type == "cpu" else "Triton and a C compiler"
        )
        raise UserError(f"--compile does not work here ({lines[0]}): it needs {needed}; or leave it out") from error
