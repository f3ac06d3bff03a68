"""What is found out about one example."""

import dataclasses
import enum

import numpy as np


class Verdict(enum.StrEnum):
    """The answer for one example."""

    VERIFIED = "VERIFIED"
    FALSIFIED = "FALSIFIED"
    UNKNOWN = "UNKNOWN"
    TIMEOUT = "TIMEOUT"
    ERROR = "ERROR"


class Claim(enum.StrEnum):
    """What a proof rests on.

    `SOUND`: a bound of the network in real arithmetic, with all rounding of the bound's
    own float64 computation accounted for. `EXECUTED`: of every execution of it in
    float32 whose dot products obey the standard model of rounding, in any order.
    `TOLERANCE`: the word of a solver, within its tolerances.
    """

    SOUND = "float64-sound"
    EXECUTED = "executed-network"
    TOLERANCE = "tolerance"


@dataclasses.dataclass(frozen=True)
class VerificationResult:
    """The verdict on one example, with its evidence.

    Attributes:
        verdict: VERIFIED and FALSIFIED are final; TIMEOUT is for the deadline alone;
            UNKNOWN and ERROR come with a reason.
        method: the stage that decided, such as "clean", "attack" or "crown"; None
            where none did.
        lower_bound: proved bound of the least margin over the region; -inf where no
            bound was taken.
        upper_bound: least margin that was seen at a point of the region.
        counterexample: a point of the region, `[*shape]`, at which the model itself
            gives an unsafe output; None unless FALSIFIED, or UNKNOWN because only
            float64 arithmetic calls the point unsafe.
        prediction: of the model for the centre of the region.
        claim: what the proof rests on; None unless VERIFIED.
        reason: why there is no answer.
        seconds: of work on this example; of work on many, its share.
        stage_seconds: the same by stage, in their order.
        domains: subproblems that branch and bound visited.
    """

    verdict: Verdict
    method: str | None = None
    lower_bound: float = -np.inf
    upper_bound: float = np.inf
    counterexample: np.ndarray | None = None
    prediction: int | None = None
    claim: Claim | None = None
    reason: str | None = None
    seconds: float = 0.0
    stage_seconds: dict[str, float] = dataclasses.field(default_factory=dict)
    domains: int = 0


class ContradictionError(RuntimeError):
    """A proof and an attack contradict each other: one of the two is wrong."""
