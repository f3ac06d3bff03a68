"""Shows robust_tf at work in a minute or two: `make demo`, or `python bin/demo.py`."""

from absl import flags

from robust_tf.experiments import command_line
from robust_tf.experiments import demo

_FLAGS = flags.FLAGS


def main(argv):
    """Runs the demonstration."""
    del argv
    demo.demo(_FLAGS.workdir)


def run():
    """Entry point."""
    flags.DEFINE_string("workdir", "demo_output", "The folder to write to.")
    command_line.run(main)


if __name__ == "__main__":
    run()
