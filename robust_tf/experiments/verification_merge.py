"""Joins the records that shards of one run have written."""

import dataclasses
import pathlib
from collections.abc import Sequence

from robust_tf import files
from robust_tf.errors import InputError
from robust_tf.experiments import verification_records as records
from robust_tf.experiments.verification_summary import summarize


def merge(workdir, folders: Sequence, allow_missing: bool = False) -> dict:
    """Joins folders of records into one, checked, and summarizes it.

    Of several records of an index, one with an answer counts, and among equals that of
    the later folder.

    Args:
        workdir: made if it is missing; a folder of earlier merges is written anew.
        folders: of shards, of one model, data set and configuration.
        allow_missing: whether indices between the first and the last of all shards may
            have no record.

    Returns:
        The content of `verification_summary.json`.

    Raises:
        InputError: for folders without records, records of several models, data sets
            or configurations, or missing indices.
        ContradictionError: where one index was verified and falsified.
    """
    workdir = pathlib.Path(workdir)
    folders = [pathlib.Path(folder) for folder in folders]
    _check_target(workdir, folders)
    setting = _common_setting(folders)
    where = {}
    for folder in folders:
        found = records.read_records(folder)
        records.check_digests(folder, found, setting)
        for record in records.newest(found, f"'{folder}'").values():
            where.setdefault(record["index"], []).append((folder, record))
    merged = {index: _chosen(index, where[index]) for index in sorted(where)}
    _check_complete(setting, merged, allow_missing)
    chosen = {index: record for index, (_, record) in merged.items()}
    summary = summarize(setting, chosen)
    workdir.mkdir(parents=True, exist_ok=True)
    for folder, record in merged.values():
        records.copy_points(record, folder, workdir)
    setting.write(workdir)
    lines = "".join(files.to_json(record) + "\n" for record in chosen.values())
    files.write_atomically(workdir / records.RECORDS, lines)
    files.write_json(workdir / records.SUMMARY, summary)
    return summary


def _chosen(index, found):
    """The folder and the record that count for an index."""
    best = found[0]
    for folder, record in found[1:]:
        old_folder, old = best
        where = f"'{old_folder}' and '{folder}'"
        if records.newest([old, record], where)[index] == record:
            best = (folder, record)
    return best


def _check_target(workdir, folders):
    if not folders:
        raise InputError("`--merge` must name at least one folder. Received: none")
    for folder in folders:
        if not (folder / records.RECORDS).is_file():
            raise InputError(
                f"`--merge` must name folders with {records.RECORDS}. Received: "
                f"'{folder}', which has none. Name the --workdir of a shard."
            )
        if folder.resolve() == workdir.resolve():
            raise InputError(
                f"`--workdir` must be another folder than those of the shards. "
                f"Received: '{workdir}' for both"
            )
    if (workdir / records.RECORDS).exists():
        old = records.Setting.read(workdir)
        if old is None or old.merged_from is None:
            raise InputError(
                f"`--workdir` must be a new folder, or one of an earlier merge. "
                f"Received: '{workdir}', which holds the records of a run."
            )


def _common_setting(folders) -> records.Setting:
    """The setting of all folders; digests of records are checked against it later."""
    settings = [records.Setting.read(folder) for folder in folders]
    for folder, setting in zip(folders, settings, strict=True):
        if setting is None:
            raise InputError(
                f"Folder '{folder}' has no {records.SETTING}, which says what its "
                "records are of. Restore the file."
            )
    first, *others = settings
    for folder, other in zip(folders[1:], others, strict=True):
        found = records.read_records(folder)
        records.check_digests(folder, found or [other.digests], first)
        first = first.widened(other)
    names = tuple(str(folder) for folder in folders)
    return dataclasses.replace(first, shard=None, merged_from=names)


def _check_complete(setting, merged, allow_missing):
    missing = [i for i in range(setting.start, setting.stop) if i not in merged]
    if missing and not allow_missing:
        shown = ", ".join(map(str, missing[:10])) + (", ..." if missing[10:] else "")
        raise InputError(
            f"{len(missing)} of the examples {setting.start} to {setting.stop - 1} "
            f"have no record. Received: none for {shown}. Let all shards end, name "
            "all of them, or say --allow_missing."
        )
