"""What the trials of endurance print, as figures: a loop under fire, and many runs that come and go."""

import subprocess
import sys

from benchmarks.record import ROOT, record

TRIALS = {"chaos": ("tests.chaos.trial", "kills survived"), "soak": ("tests.soak.trial", "")}
"""By task: the module, and how the first line that counts begins; above it stands the progress."""


def main() -> None:
    """Run and record both. Raises CalledProcessError when one finds something wrong."""
    for name, (module, first) in TRIALS.items():
        printed = subprocess.run(
            [sys.executable, "-m", module], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True
        ).stdout
        lines = printed.strip("\n").splitlines()
        begin = next(number for number, line in enumerate(lines) if line.startswith(first))
        record(name, ["output"], [[line] for line in lines[begin:]], command=f"task {name}")
        print(printed)


if __name__ == "__main__":
    main()
