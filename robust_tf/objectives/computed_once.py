"""A property for results that several parts of an objective ask for."""

from collections.abc import Callable


class ComputedOnce:
    """A property that is computed when first asked for, and kept.

    Before Python 3.12 `functools.cached_property` holds a lock while it computes: a
    replica that waits for the others in a reduction would keep them out for ever.
    """

    def __init__(self, function: Callable):
        self._function = function
        self.__doc__ = function.__doc__

    def __get__(self, instance, owner=None):
        if instance is None:
            return self
        value = self._function(instance)
        instance.__dict__[self._function.__name__] = value  # Found before this is.
        return value
