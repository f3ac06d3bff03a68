"""Verifies the examples of a data set one block after the other, and can go on."""

import collections
import contextlib
import dataclasses
import pathlib
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence

import numpy as np
import rich.console
import rich.progress
from absl import logging

from robust_tf import files
from robust_tf.errors import InputError
from robust_tf.experiments import command_line
from robust_tf.experiments import verification_records as records
from robust_tf.experiments.settings import Data
from robust_tf.experiments.settings import Examples
from robust_tf.experiments.verification_models import Classifier
from robust_tf.experiments.verification_models import load_classifier
from robust_tf.experiments.verification_summary import summarize
from robust_tf.regions import LpBall
from robust_tf.regions import Threat
from robust_tf.verification.plan import Plan
from robust_tf.verification.result import ContradictionError
from robust_tf.verification.result import Verdict
from robust_tf.verification.verify import Verifier

RETRIED = tuple(v.value for v in (Verdict.TIMEOUT, Verdict.UNKNOWN, Verdict.ERROR))


def verify_dataset(
    workdir,
    *,
    model: str,
    data: Data,
    threat: Threat,
    examples: Examples = Examples(),  # noqa: B008
    plan: Plan = Plan(),  # noqa: B008
    timeout_s: float = 60.0,
    seed: int = 0,
    retry: Sequence[str] = (),
    shard: tuple[int, int] | None = None,
) -> dict:
    """Verifies examples in the order of their indices; what is on record is kept.

    Blocks of `plan.batch_size` examples are worked on at once. As soon as one is
    decided, its records are appended to `verification.jsonl`; the same call goes on
    after the last of them. At the end `verification_summary.json` is written.

    Args:
        workdir: made if it is missing; holds all that is written.
        model: path of a `.keras`, `.onnx` or `.mat` file, or of a run folder.
        data: which images.
        threat: perturbations, taken exactly, in float64.
        examples: which of the images; its batch size is not used.
        plan: which methods, in which order; "clean" must be among them.
        timeout_s: seconds of work for each example.
        seed: of attacks; those of a block depend on it and on the block's place.
        retry: of `RETRIED`: verdicts that are tried again, each example that had less
            time than `timeout_s` (errors always).
        shard: (number from 1, how many): one of so many equal parts of the blocks.

    Returns:
        The content of `verification_summary.json`, of all records in the folder.

    Raises:
        InputError: for files that are missing or do not fit, and for a folder with
            records of another model, data set or configuration.
        ContradictionError: where a proof and a point contradict each other; what is
            known of it is in `contradiction.json`.
    """
    _check_plan(plan, retry)
    classifier = load_classifier(model)
    images = data.load(examples.split)
    classifier.check_fit(images)
    blocks = _blocks(images, examples, plan.batch_size, shard)
    setting = _setting(classifier, images, threat, examples, plan, seed, shard)
    folder = _Folder.open(pathlib.Path(workdir), setting, timeout_s, bool(retry))
    run = _Run(folder, classifier, images, threat, plan, timeout_s, seed)
    jobs = [*_fresh(blocks, folder.known), *run.retries(retry, blocks)]
    total = sum(len(block) for block in blocks)
    with _progress(classifier.name, total, folder) as advance:
        for job in jobs:
            run.work(job, advance)
    return folder.summarize()


@dataclasses.dataclass(frozen=True)
class _Job:
    """Examples that are verified at once, and which of the results count."""

    indices: Sequence[int]
    counted: frozenset[int]
    attempt: int = 0


@dataclasses.dataclass
class _Folder:
    """The records of one working folder; `known` holds the newest of each index."""

    workdir: pathlib.Path
    setting: records.Setting
    known: dict[int, dict]
    attempts: Mapping[int, int]

    @classmethod
    def open(cls, workdir, setting, timeout_s, is_retried) -> "_Folder":
        """Reads what is there; refuses records of something else."""
        old, found = records.Setting.read(workdir), records.read_records(workdir)
        records.check_digests(workdir, found, setting)
        _check_budget(workdir, found, timeout_s, is_retried)
        if old is not None and old.merged_from is not None:
            raise InputError(
                f"'{workdir}' holds records that were merged. Received: --workdir="
                f"{workdir}. Go on in a folder of a shard, and merge again."
            )
        known = records.newest(found, f"'{workdir / records.RECORDS}'")
        if known and old is not None:
            setting = setting.widened(old)
        workdir.mkdir(parents=True, exist_ok=True)
        setting.write(workdir)
        attempts = collections.Counter(record["index"] for record in found)
        return cls(workdir, setting, known, attempts)

    def append(self, record: dict) -> None:
        """Enters a record, on disk when this returns."""
        files.append_json_line(self.workdir / records.RECORDS, record)
        self.known[record["index"]] = record

    def summarize(self) -> dict:
        summary = summarize(self.setting, dict(sorted(self.known.items())))
        files.write_json(self.workdir / records.SUMMARY, summary)
        return summary

    def refuse(self, error: ContradictionError, job: _Job, facts: Mapping):
        """Writes down a contradiction, and ends the run."""
        path = self.workdir / records.CONTRADICTION
        indices = [int(index) for index in job.indices]
        report = {"message": str(error), "indices": indices, "attempt": job.attempt}
        files.write_json(path, report | dict(facts))
        (self.workdir / records.SUMMARY).unlink(missing_ok=True)
        raise ContradictionError(
            f"{error} It came up among the examples {indices[0]} to {indices[-1]}, "
            f"counted from 0 there; details are in '{path}'."
        ) from error


class _Run:
    """What all blocks are verified by."""

    def __init__(self, folder, classifier, images, threat, plan, timeout_s, seed):
        self._folder, self._classifier, self._images = folder, classifier, images
        self._threat, self._timeout_s, self._seed = threat, timeout_s, seed
        self._batch_size = plan.batch_size
        self._verifier = Verifier(classifier.model, plan)
        environment = command_line.environment(())
        self._facts = {
            "epsilon": threat.epsilon,
            "norm": str(threat.norm),
            "timeout_s": timeout_s,
            **folder.setting.digests,
            "code_version": environment["commit"]
            or environment["versions"]["robust_tf"],
        }

    def retries(self, verdicts: Sequence[str], blocks) -> Iterator[_Job]:
        """Yields jobs for examples on record that are to be tried again."""
        wanted = {verdict.upper() for verdict in verdicts}
        chosen, spent = [], 0
        for index in (index for block in blocks for index in block):
            record = self._folder.known.get(index, {})
            if record.get("verdict") not in wanted:
                continue
            had_less = record["timeout_s"] < self._timeout_s
            if had_less or record["verdict"] == Verdict.ERROR:
                chosen.append(index)
            else:
                spent += 1
        if spent:
            logging.warning(
                "%d example(s) had %g seconds already, and are not tried again: raise "
                "--timeout.",
                spent,
                self._timeout_s,
            )
        for start in range(0, len(chosen), self._batch_size):
            part = chosen[start : start + self._batch_size]
            attempt = max(self._folder.attempts[index] for index in part)
            yield _Job(part, frozenset(part), attempt)

    def work(self, job: _Job, advance: Callable[[], None]) -> None:
        """Verifies a job, and appends its records, each as soon as it is known."""
        labels = self._images.labels[np.asarray(job.indices)]
        inputs = self._classifier.inputs(self._images, job.indices)
        threat = self._threat
        region = LpBall(inputs, threat.epsilon, threat.norm, threat.valid_range)
        facts = self._facts | {"seed": self._seed_of(job)}

        def enter(place, result):
            index = int(job.indices[place])
            self._enter(index, int(labels[place]), result, job, facts)
            advance()

        try:
            self._verifier.verify(
                region,
                labels,
                self._timeout_s,
                seed=facts["seed"],
                on_result=enter,
            )
        except ContradictionError as error:
            self._folder.refuse(error, job, facts)

    def _enter(self, index, label, result, job, facts):
        folder = self._folder
        found = {"verdict": result.verdict.value}
        where = f"'{folder.workdir / records.RECORDS}' and a repetition"
        records.check_agreement(index, folder.known.get(index), found, where)
        if index in job.counted:
            folder.append(
                records.record_of(result, index, label, folder.workdir, facts)
            )

    def _seed_of(self, job) -> int:
        """A seed for each block and attempt, the same however the run is cut."""
        entropy = [self._seed, int(job.indices[0]), job.attempt]
        return int(np.random.SeedSequence(entropy).generate_state(1)[0] >> 1)


def _fresh(blocks, known: Mapping) -> Iterator[_Job]:
    """Yields jobs for blocks with examples that are not on record.

    They are repeated as a whole, so that attacks see the same block in every run; of
    the results only the missing ones count.
    """
    for block in blocks:
        missing = frozenset(index for index in block if index not in known)
        if missing:
            yield _Job(block, missing)


def _blocks(images, examples, batch_size, shard) -> list[range]:
    """The indices, in blocks that begin at multiples of their size."""
    indices = examples.indices_in(images)
    start, stop = indices.start, indices.stop
    first = start - start % batch_size
    blocks = [
        range(max(one, start), min(one + batch_size, stop))
        for one in range(first, stop, batch_size)
    ]
    if shard is None:
        return blocks
    number, of = shard
    if not 1 <= number <= of or of > len(blocks):
        raise InputError(
            f"`--shard` must be NUMBER/COUNT, from 1/{len(blocks)} to {len(blocks)}/"
            f"{len(blocks)} at most: {len(indices)} examples make {len(blocks)} "
            f"block(s) of `plan.batch_size` {batch_size}. Received: {number}/{of}. "
            "Take fewer shards, or smaller blocks."
        )
    ends = [len(blocks) * end // of for end in (number - 1, number)]
    return blocks[slice(*ends)]


def _setting(classifier: Classifier, images, threat, examples, plan, seed, shard):
    return records.Setting(
        model=classifier.name,
        dataset=images.name,
        split=examples.split,
        start=examples.start,
        stop=examples.indices_in(images).stop,
        shard=None if shard is None else f"{shard[0]}/{shard[1]}",
        stages=tuple(stage.name for stage in plan.stages),
        configuration={
            "threat": records.description(threat),
            "claim": str(plan.claim),
            "stages": records.description(tuple(plan.stages)),
            "seed": seed,
        },
        model_digest=classifier.digest,
        data_digest=images.digest,
    )


def _check_plan(plan, retry):
    names = [stage.name for stage in plan.stages]
    if "clean" not in names:
        raise InputError(
            "`plan.stages` must hold `stages.Clean()`: accuracies need predictions. "
            f"Received: {names}"
        )
    unknown = [one for one in retry if one.upper() not in RETRIED]
    if unknown:
        raise InputError(
            "`--retry` must name verdicts with commas in between, of "
            f"{', '.join(RETRIED).lower()}. Received: {', '.join(unknown)}"
        )


def _check_budget(workdir, found, timeout_s, is_retried):
    """All examples of a run have the same time, unless they are tried again."""
    most = max((record["timeout_s"] for record in found), default=timeout_s)
    if timeout_s < most or (timeout_s > most and not is_retried):
        raise InputError(
            f"The examples in '{workdir / records.RECORDS}' had {most:g} seconds each. "
            f"Received: --timeout={timeout_s:g}. Give --timeout={most:g}; or more, and "
            "--retry=timeout,unknown, to try those without an answer again."
        )


@contextlib.contextmanager
def _progress(label: str, total: int, folder: _Folder) -> Iterator[Callable[[], None]]:
    """Shows a bar and the verdicts so far on the standard error."""
    with rich.progress.Progress(
        *rich.progress.Progress.get_default_columns(),
        rich.progress.MofNCompleteColumn(),
        rich.progress.TextColumn("{task.fields[verdicts]}"),
        console=rich.console.Console(stderr=True),
        transient=True,
    ) as bar:
        task = bar.add_task(label, total=total, verdicts="")

        def advance():
            found = [record["verdict"] for record in folder.known.values()]
            counts = [f"{found.count(v)} {v.lower()}" for v in Verdict if v in found]
            bar.update(task, completed=len(found), verdicts=", ".join(counts))

        advance()
        yield advance


def parse_shard(text: str) -> tuple[int, int]:
    """Returns what `--shard` gives: "2/8" for the second of eight parts.

    Raises:
        InputError: for anything but two whole numbers, the first from 1 to the second.
    """
    number, slash, count = text.partition("/")
    is_valid = slash and number.isdecimal() and count.isdecimal()
    if not is_valid or not 1 <= int(number) <= int(count):
        raise InputError(
            "`--shard` must be NUMBER/COUNT, counted from 1: 2/8 is the second of "
            f"eight parts. Received: {text!r}"
        )
    return int(number), int(count)
