"""Reads `golden_smoothing.json`."""

import functools
import json
import pathlib

_FILE = pathlib.Path(__file__).parents[1] / "golden" / "golden_smoothing.json"


@functools.cache
def content():
    return json.loads(_FILE.read_text())


def cases(key):
    found = content()[key]
    return found["cases"] if isinstance(found, dict) else found
