"""Sample-wise early exit: the place to import it from. The arithmetic on logits is in `ops.exit_curve`."""

from ops.exit_curve import CRITERIA, ExitPoint, criterion_values, exit_curve, exit_decisions

__all__ = ["CRITERIA", "ExitPoint", "criterion_values", "exit_curve", "exit_decisions"]
