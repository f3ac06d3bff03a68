"""The results that run folders hold, and what other programs add to them."""

import json
import os
import pathlib

from robust_tf import files
from robust_tf.errors import InputError

METRICS = "metrics.jsonl"
RESULTS = ("summary.json", "evaluation.json")
VERIFICATION = ("verification.jsonl", "verification_summary.json")
CERTIFICATION = ("certification_counts.jsonl", "certification_summary.json")


def run_folders(paths: list[str]) -> dict[str, pathlib.Path]:
    """Returns run folders by name: the folders' own names, if these differ.

    Raises:
        InputError: for what is no folder, or holds nothing that a run writes.
    """
    folders = {path: pathlib.Path(path) for path in paths}
    for folder in folders.values():
        if not folder.is_dir():
            raise InputError(
                "`--run` must name a folder that a run has written. Received: "
                f"'{folder}', which is no folder."
            )
        known = (*RESULTS, *VERIFICATION, *CERTIFICATION)
        if not any((folder / name).exists() for name in (METRICS, *known)):
            raise InputError(
                f"`--run` must name a run folder, with {METRICS}, "
                f"{' or '.join(known)} in it. Received: '{folder}', which has none "
                "of them."
            )
    names = {path: pathlib.Path(os.path.abspath(path)).name for path in folders}
    are_unique = len(set(names.values())) == len(names)
    return {names[path] if are_unique else path: folders[path] for path in folders}


def read_results(folder: pathlib.Path, name: str) -> list[dict]:
    """Returns the records of a run folder, in the order of its files.

    Args:
        folder: of the run.
        name: of the records that have none of their own.

    Raises:
        InputError: for a file without records of results.
    """
    records = []
    for path in (folder / file for file in RESULTS):
        if path.exists():
            records += [{"name": name} | record for record in _records(path)]
    return records


def read_verification(folder: pathlib.Path) -> tuple[list[dict], dict] | None:
    """Returns what `verify` has written, or None where it has not ended.

    Returns:
        The records that count, the last one of each index, and their summary.

    Raises:
        InputError: for a file that is broken.
    """
    lines, summary = (folder / name for name in VERIFICATION)
    if not (lines.exists() and summary.exists()):
        return None
    try:
        content = json.loads(summary.read_text(encoding="utf-8"))
        newest = {record["index"]: record for record in files.read_json_lines(lines)}
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"'{folder}' cannot be read: {error!r}") from error
    return list(newest.values()), content


def read_certification(folder: pathlib.Path) -> tuple[list[dict], dict] | None:
    """Returns what `certify` has written, or None where it has not ended.

    Returns:
        The records of counts, in the order of the examples, and their summary.

    Raises:
        InputError: for a file that is broken, or a summary of other records.
    """
    lines, summary = (folder / name for name in CERTIFICATION)
    if not (lines.exists() and summary.exists()):
        return None
    try:
        content = json.loads(summary.read_text(encoding="utf-8"))
        count = content["examples"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"'{folder}' cannot be read: {error!r}") from error
    records = files.read_json_lines(lines)
    if len(records) != count:
        raise InputError(
            f"'{summary}' must be of the records beside it. Received: a summary of "
            f"{count} examples, and {len(records)} records. Certify to the end."
        )
    return records, content


def _records(path):
    """One record, several in a list, or several by name."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"'{path}' cannot be read as JSON: {error}") from error
    if isinstance(content, dict) and isinstance(content.get("models"), list):
        content = content["models"]  # Of `evaluate`.
    elif isinstance(content, dict) and any(map(_is_record, content.values())):
        named = {name: one for name, one in content.items() if _is_record(one)}
        content = [{"name": name} | one for name, one in named.items()]
    elif isinstance(content, dict):
        content = [content]
    if not isinstance(content, list) or not all(map(_is_record, content)):
        raise InputError(
            f"'{path}' must hold records of results, with `clean_accuracy` in each. "
            "Measure the model again."
        )
    return content


def _is_record(value) -> bool:
    return isinstance(value, dict) and "clean_accuracy" in value
