"""Which workers train together, by the environment variable `TF_CONFIG`."""

import json
import os

from robust_tf.errors import InputError


def count_workers() -> int:
    """Returns how many workers `TF_CONFIG` names; 1 without it.

    Raises:
        InputError: for a `TF_CONFIG` that is no description of a cluster of workers.
    """
    return len(_cluster()[0])


def is_chief() -> bool:
    """Whether this process writes what a run writes: the first worker, or the only."""
    return _cluster()[1] == 0


def _cluster() -> tuple[list[str], int]:
    """Addresses of all workers, and the number of this one."""
    text = os.environ.get("TF_CONFIG")
    if not text:
        return ["localhost"], 0
    try:
        config = json.loads(text)
        workers = list(config["cluster"]["worker"])
        kind, index = config["task"]["type"], int(config["task"]["index"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(_no_cluster(text)) from error
    if set(config["cluster"]) != {"worker"} or kind != "worker":
        raise InputError(_no_cluster(text))
    if not 0 <= index < len(workers) or len(set(workers)) < len(workers):
        raise InputError(_no_cluster(text))
    return workers, index


def _no_cluster(text) -> str:
    return (
        "`TF_CONFIG` must name workers, each once, and which of them this process is: "
        '{"cluster": {"worker": ["HOST:PORT", ...]}, "task": {"type": "worker", '
        f'"index": 0}}}}. Received: {text}'
    )
