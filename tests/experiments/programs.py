"""Programs of `bin/`, run within the process of the tests."""

import sys

from absl import flags

from robust_tf.experiments import command_line


def launch(monkeypatch, program, *arguments, name="program.py"):
    """Runs a program with these arguments under a name, and returns its status."""
    values = flags.FlagValues()
    program.define_flags(values)
    arguments = [name, *arguments]
    command_line.parse_flags(arguments, values)
    monkeypatch.setattr(program, "_FLAGS", values)
    monkeypatch.setattr(sys, "argv", arguments)
    return command_line.guarded(program.main, [name])
