"""What the records of verification say together, after a check that they agree."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from robust_tf.errors import InputError
from robust_tf.experiments.verification_records import Setting
from robust_tf.verification.result import Claim
from robust_tf.verification.result import Verdict

_CLEAN = "clean"


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What one record counts for.

    Attributes:
        is_clean: the prediction is right; a tie with another class is not.
        is_verified: it is proved.
        is_falsified: there is a counterexample, the input itself perhaps.
        has_tolerance: the proof rests on a solver's tolerance.
    """

    is_clean: bool
    is_verified: bool
    is_falsified: bool
    has_tolerance: bool

    @classmethod
    def of(cls, record: Mapping) -> "Outcome":
        """Returns what a line of the records counts for."""
        verdict, is_by_clean = record["verdict"], record["method"] == _CLEAN
        is_falsified = verdict == Verdict.FALSIFIED
        return cls(
            record["prediction"] == record["label"]
            and not (is_falsified and is_by_clean),
            verdict == Verdict.VERIFIED,
            is_falsified,
            record.get("claim") == Claim.TOLERANCE,
        )


def summarize(setting: Setting, records: Mapping[int, Mapping]) -> dict:
    """Returns the content of `verification_summary.json`.

    Accuracies are fractions of all examples that were tried; examples without an answer
    count as not certified. `certified_accuracy` counts no proof that rests on a
    solver's tolerance; `certified_accuracy_with_tolerance` counts these too.
    `attacked_accuracy` is the share that is classified correctly and was not falsified:
    no accuracy under attack can be proved to be greater.

    Args:
        setting: what they are records of.
        records: one for each index, by index; at least one.

    Raises:
        InputError: where records contradict themselves, or there are none.
    """
    if not records:
        raise InputError("There are no records to summarize. Verify some examples.")
    check_consistency(records)
    rows = list(records.values())
    return {
        "model": setting.model,
        "dataset": setting.dataset,
        "split": setting.split,
        "epsilon": rows[0]["epsilon"],
        "norm": rows[0]["norm"],
        "start": setting.start,
        "stop": setting.stop,
        "shard": setting.shard,
        "examples": len(rows),
        **_results(setting, records),
        "reasons": _reasons(rows),
        "seconds": _seconds(rows),
        "timeouts_s": sorted({row["timeout_s"] for row in rows}),
        "code_versions": sorted({str(row["code_version"]) for row in rows}),
        **setting.digests,
    }


def check_consistency(records: Mapping[int, Mapping]) -> None:
    """Checks that verdicts, predictions and evidence of all records agree.

    Every verdict has its evidence, and certified and falsified examples together are
    no more than those classified correctly, and these no more than all.

    Raises:
        InputError: naming the first example that does not fit.
    """
    for index, record in records.items():
        flag = Outcome.of(record)
        is_decided = flag.is_verified or flag.is_falsified
        rules = {
            "is verified, but classified as another class": flag.is_clean
            or not flag.is_verified,
            "is verified, without a claim": not flag.is_verified
            or record.get("claim") in list(Claim),
            "is falsified, without a counterexample": not flag.is_falsified
            or bool(record.get("counterexample")),
            "has a counterexample, but is not falsified": flag.is_falsified
            or not record.get("counterexample"),
            "is decided, by no method": not is_decided or bool(record["method"]),
            "is not decided, but by a method": is_decided or not record["method"],
        }
        for problem, is_met in rules.items():
            if not is_met:
                raise InputError(
                    f"The records contradict themselves: example {index} {problem}. "
                    f"Received: verdict {record['verdict']}, method "
                    f"{record['method']}, label {record['label']}, prediction "
                    f"{record['prediction']}. Remove the line, and verify it again."
                )


def _results(setting, records) -> dict:
    """Counts of verdicts, accuracies, and what they rest on."""
    flags = {index: Outcome.of(record) for index, record in records.items()}
    count = len(records)
    proved = [i for i, flag in flags.items() if flag.is_verified]
    sound = [i for i in proved if not flags[i].has_tolerance]
    clean = sum(flag.is_clean for flag in flags.values())
    falsified = [i for i, flag in flags.items() if flag.is_falsified]
    attacked = sum(f.is_clean and not f.is_falsified for f in flags.values())
    verdicts = [record["verdict"] for record in records.values()]
    return {
        "verdicts": {one.value: verdicts.count(one) for one in Verdict},
        "clean_accuracy": round(clean / count, 6),
        "attacked_accuracy": round(attacked / count, 6),
        "certified_accuracy": round(len(sound) / count, 6),
        "certified_accuracy_with_tolerance": round(len(proved) / count, 6),
        "certified_after": _certified_after(setting, records, sound),
        "verified_by": _by(setting, records, proved, "method"),
        "falsified_by": _by(setting, records, falsified, "method"),
        "claims": {c.value: _claims(records, proved).count(c) for c in Claim},
    }


def _certified_after(setting, records, sound) -> dict[str, float]:
    """Accuracy that this and earlier stages have certified, by stage."""
    total, after = 0, {}
    for stage, count in _by(setting, records, sound, "method").items():
        total += count
        after[stage] = round(total / len(records), 6)
    return after


def _by(setting, records, indices, key) -> dict[str, int]:
    """How many of them each stage decided, in the order of stages; all are there."""
    found = [records[index][key] for index in indices]
    names = dict.fromkeys([*setting.stages, *sorted(set(found))])
    return {name: found.count(name) for name in names}


def _claims(records, proved) -> list:
    return [records[index]["claim"] for index in proved]


def _reasons(rows) -> dict[str, int]:
    """How often each reason stands behind a missing answer, the commonest first."""
    found = [row["reason"] for row in rows if row.get("reason")]
    names = sorted(set(found), key=lambda reason: (-found.count(reason), reason))
    return {name: found.count(name) for name in names}


def _seconds(rows) -> dict[str, float]:
    seconds = np.array([row["seconds"] for row in rows], "float64")
    statistics = {"mean": np.mean, "median": np.median, "max": np.max, "total": np.sum}
    return {name: round(float(of(seconds)), 6) for name, of in statistics.items()}
