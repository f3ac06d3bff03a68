"""The error that says: what was handed in cannot be used, and what to do."""


class InputError(ValueError):
    """Bad input by a user: a value, a file, a flag, a model, a configuration.

    Programs in `bin/` print its message, without a traceback, and exit with 2.
    """

    ag_pass_through = True  # `tf.function` raises it as it is, not as a StagingError.
