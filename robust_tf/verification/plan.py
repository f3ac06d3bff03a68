"""Which methods verification tries, in which order."""

import dataclasses
from collections.abc import Sequence

from robust_tf.errors import InputError
from robust_tf.verification import stages as ladder
from robust_tf.verification.branch_and_bound import BranchAndBound
from robust_tf.verification.input_split import InputSplit
from robust_tf.verification.result import Claim

_LADDER = (
    ladder.Clean(),
    ladder.Attack(),
    ladder.Interval(),
    InputSplit(),
    ladder.CrownIbp(),
    ladder.Crown(),
    ladder.AlphaCrownStage(),
    BranchAndBound(),
)


@dataclasses.dataclass(frozen=True)
class Plan:
    """The stages of verification.

    Attributes:
        stages: from cheap to complete; each sees what earlier ones left open.
        batch_size: examples that batched stages work on at once.
        claim: what proofs are to hold for, of `result.Claim`: "float64-sound", the
            network in real arithmetic; "executed-network", each float32 execution.
        memory_budget_mb: for the coefficients of one chunk of rows, in MiB.

    Raises:
        InputError: for no stages, or values out of range.
    """

    stages: Sequence[ladder.Stage] = _LADDER
    batch_size: int = 32
    claim: str = Claim.SOUND
    memory_budget_mb: float = 1024.0

    def __post_init__(self):
        claims = [Claim.SOUND.value, Claim.EXECUTED.value]
        rules = {
            "stages": (len(self.stages) > 0, "at least one stage"),
            "batch_size": (self.batch_size >= 1, "at least 1"),
            "claim": (self.claim in claims, f"one of {claims}"),
            "memory_budget_mb": (self.memory_budget_mb > 0, "above 0"),
        }
        for name, (is_met, rule) in rules.items():
            if not is_met:
                raise InputError(
                    f"`{name}` of a plan must be {rule}. Received: "
                    f"{getattr(self, name)!r}"
                )
