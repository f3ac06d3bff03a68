"""Rounds of a search, until the example is decided or its time is up."""

import time
from collections.abc import Callable

# A round is not begun where less than this many times the usual time is left.
_LAST_ROUND = 1.1


def in_rounds(
    task,
    index: int,
    step: Callable[[], None],
    goes_on: Callable[[float, float], bool],
) -> None:
    """Repeats a step of a search on one example.

    Ends where the example has a result, where the next round would end too late (the
    task is told so), or where the search does not go on.

    Args:
        task: of the example.
        index: its place in the task.
        step: one round.
        goes_on: whether another one makes sense, given the seconds that remain and
            those of a round: of the shorter of the last two, as some build graphs; 0
            where there were no two.
    """
    before, last = 0.0, 0.0
    while task.results[index] is None:
        remaining = task.clock.remaining(index)
        usual = min(before, last)
        if not goes_on(remaining, usual):
            return
        if remaining < _LAST_ROUND * usual:
            task.is_late[index] = True
            return
        begun = time.monotonic()
        step()
        before, last = last, time.monotonic() - begun
