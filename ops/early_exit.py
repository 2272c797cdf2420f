"""Sample-wise early exit: the place to import it from.

The arithmetic on logits is in `ops.exit_curve`, inference that stops in `ops.dynamic`, thresholds on disk in
`ops.exit_files`.
"""

from ops.dynamic import EarlyExitInference, ExitResult
from ops.exit_curve import CRITERIA, ExitPoint, criterion_values, exit_curve, exit_decisions
from ops.exit_files import read_thresholds
from ops.inference_network import prepare_for_inference

__all__ = [
    "CRITERIA",
    "EarlyExitInference",
    "ExitPoint",
    "ExitResult",
    "criterion_values",
    "exit_curve",
    "exit_decisions",
    "prepare_for_inference",
    "read_thresholds",
]
