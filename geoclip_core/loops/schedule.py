"""Learning rate over a run, and when to end it early."""

import math
from dataclasses import dataclass


def learning_rate_factor(step: int, total: int, warmup: int, floor: float = 0.0) -> float:
    """Factor on the learning rate for update `step` (0 to total − 1).

    Linear warm-up that reaches 1 at update `warmup`, then a half cosine that reaches `floor` at the
    very last update, no matter how long the warm-up was (Loshchilov & Hutter, SGDR, ICLR 2017).
    """
    if not 0 <= step < total:
        raise ValueError(f"update {step} is not one of {total}")
    if step < warmup:
        return (step + 1) / (warmup + 1)
    share = (step - warmup) / max(1, total - 1 - warmup)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * share))


def warmup_steps(total: int, share: float) -> int:
    """Updates of the warm-up: a share of all, at least one update being left for the rest."""
    return min(round(total * share), max(total - 1, 0))


@dataclass
class BestSoFar:
    """The best validation value (lower is better) and how long ago it was seen."""

    patience: int
    """Validations without improvement after which to end; 0: never."""
    value: float = math.inf
    step: int = -1
    waited: int = 0

    def offer(self, value: float, step: int) -> bool:
        """Take note of a validation; True if it is the best so far. A NaN never is."""
        if value < self.value:
            self.value, self.step, self.waited = value, step, 0
            return True
        self.waited += 1
        return False

    @property
    def exhausted(self) -> bool:
        """Whether patience has run out."""
        return self.patience > 0 and self.waited >= self.patience
