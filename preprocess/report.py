"""The file that names everything wrong with a data set."""

import csv
from collections.abc import Sequence
from pathlib import Path

from caption.errors import UserError
from preprocess.records import Problem


def report_path(output: Path) -> Path:
    return output.with_name(output.stem + "_report.csv")


def tell(problems: Sequence[Problem], output: Path, stopping: bool) -> None:
    """Write the report, or remove an old one when there is nothing wrong any more.

    Raises UserError when `stopping` and something is wrong that no run should pass over in silence.
    """
    path = report_path(output)
    path.unlink(missing_ok=True)
    if not problems:
        return
    with path.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(("split", "image_id", "file_name", "problem"))
        lines.writerows(problem[:4] for problem in problems)
    grave = [problem for problem in problems if problem.stops]
    if grave and stopping:
        more = f", and {len(grave) - 1} more" if len(grave) > 1 else ""
        raise UserError(
            f"{grave[0].file_name}: {grave[0].problem}{more}; all are named in {path}. Nothing done is lost: mend them "
            "and run the same command again, or leave them out with --on-error skip"
        )
