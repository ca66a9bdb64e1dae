"""`python -m course {make, grade}`: homework from this code, and its points (docs/course.md)."""

import signal

if __name__ == "__main__":
    import caption.interrupt  # noqa: F401  before the imports that take time

from caption.config.cli import parse, run
from course.grade import Grade
from course.make import Make

# The subcommands are the names of the classes in lower case.
COMMANDS = Make | Grade


def main(arguments: list[str]) -> None:
    parse(COMMANDS, arguments, "python -m course", __doc__).run()


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # it ends like Ctrl-C, and leaves nothing behind
    run(main)
