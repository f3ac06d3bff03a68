"""How large margins are, not only whether they are positive."""

import keras
import numpy as np
import tensorflow as tf

from robust_tf.errors import InputError
from robust_tf.regions import Region
from robust_tf.specifications import UnsafeSet
from robust_tf.specifications import margin_specification
from robust_tf.verification.plan import Plan
from robust_tf.verification.prover import DECIDING
from robust_tf.verification.result import Verdict
from robust_tf.verification.verify import Verifier

# Halvings of the interval between proved and seen margins.
_REPETITIONS = 20


class MarginSearch:
    """Lower bounds of all margins by a plan of verification, one margin at a time.

    Each margin is asked for just below the least value that is seen at points of the
    region, so a complete plan ends within `gap` of its minimum (arXiv:2305.13991 takes
    such margins for the losses that coefficients are tuned by).

    Args:
        plan: which methods; the whole ladder by default.
        timeout_s: for each margin of each example.
        gap: between the bound and the least value seen.
        seed: of attacks.

    Raises:
        InputError: for times or gaps that are not above 0.
    """

    name = "branch and bound"

    def __init__(
        self,
        plan: Plan | None = None,
        timeout_s: float = 20.0,
        gap: float = 1e-4,
        seed: int = 0,
    ):
        if not (timeout_s > 0.0 and gap > 0.0):
            raise InputError(
                f"`timeout_s` and `gap` must be above 0. Received: {timeout_s}, {gap}"
            )
        self._plan = plan or Plan()
        self._timeout_s, self._gap, self._seed = timeout_s, gap, seed
        self._model, self._verifier = None, None

    def __call__(
        self, model: keras.Model, region: Region, labels, margins
    ) -> np.ndarray:
        """Returns lower bounds of the margins, `[batch, classes - 1]`.

        Args:
            model: from `robust_tf.convert`.
            region: `[batch, *shape]`.
            labels: integer class indices, `[batch]`.
            margins: valid lower bounds, `[batch, classes - 1]`; none gets lower.
        """
        if self._model is not model:
            self._model, self._verifier = model, Verifier(model, self._plan)
        classes = model.output_shape[-1]
        rows = margin_specification(tf.convert_to_tensor(labels), classes, DECIDING)
        best = np.array(margins, "float64")
        for place in range(classes - 1):
            row = rows[:, place : place + 1]
            # Below what is known, proofs cost nothing; attacks are made all the same.
            seen, _, _ = self._asked(region, row, best[:, place] - 1.0)
            thresholds = seen - self._gap
            halves = np.zeros(len(best), bool)
            for _ in range(_REPETITIONS):
                least, proved, verdicts = self._asked(region, row, thresholds)
                best[:, place] = np.fmax(best[:, place], proved)
                seen = np.minimum(seen, least)
                # Where the search saw less than attacks did, the interval is halved
                # until it is closed, or time is up.
                halves |= verdicts == Verdict.FALSIFIED
                halves &= np.isin(verdicts, [Verdict.FALSIFIED, Verdict.VERIFIED])
                halves &= seen - best[:, place] > self._gap
                if not halves.any():
                    break
                middle = (best[:, place] + seen) / 2.0
                thresholds = np.where(halves, middle, best[:, place] - 1.0)
        return best

    def _asked(self, region, row, thresholds):
        """The least margins that were seen, those that were proved, and verdicts."""
        unsafe = UnsafeSet(row, tf.constant(thresholds[:, None], DECIDING), (0,))
        results = self._verifier.verify(
            region, timeout_s=self._timeout_s, unsafe=unsafe, seed=self._seed
        )
        seen = np.asarray([result.upper_bound for result in results])
        proved = np.asarray([result.lower_bound for result in results])
        verdicts = np.asarray([result.verdict for result in results])
        return seen + thresholds, proved + thresholds, verdicts
