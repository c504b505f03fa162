"""What to do with the rows that a run leaves out, as text for people.

In: the numbers of rows, the job file and the run directory. Out: how many, and the next command.
"""

from __future__ import annotations

from pathlib import Path

from bulkcert.cli.format import as_text
from bulkcert.quantities import count
from bulkcert.rejections import command_for_corrected, usable_rows


def how_to_correct(job_file: Path, run_dir: Path) -> str:
    """Say how to correct the rows that a run leaves out, and how to do them then.

    They are the next run of the job: their run directory has another target file.
    """
    rows = usable_rows(run_dir.absolute())
    return as_text(
        [
            f"The rows left out are in {rows}. Correct them there, and do them in the next run,"
            " once this one is over:",
            f"  {command_for_corrected(job_file, run_dir)}",
        ]
    )


def left_out_in_words(bad: int, protected: int) -> str:
    """Say how many rows are left out, and why; empty if none are.

    Args:
        bad: bad rows.
        protected: rows that must not be touched.
    """
    parts = []
    if bad:
        parts.append(count(bad, "bad row"))
    if protected:
        parts.append(
            count(protected, "row that must not be touched", "rows that must not be touched")
        )
    return " and ".join(parts)
