"""./run_all.sh whose notebooks run in its own process, without pictures and report.

    python -m tests.support.plain_run OPTIONS

A run's options, messages and exit status, in a tenth of its time: no kernels, no charts.
"""

import sys
from pathlib import Path
from unittest.mock import patch

import papermill

from lib import config
from lib.operate import kernels, run
from tests.support import walk


def execute(notebook: Path, output: Path, parameters: dict, **_) -> None:
    """Instead of papermill.execute_notebook."""
    settings = config.load(target=parameters["target"], env=parameters["env"])
    walk.execute(Path(notebook), settings, Path(parameters["run_dir"]))


if __name__ == "__main__":
    with (patch.object(papermill, "execute_notebook", execute), patch.object(kernels, "warm"),
          patch.object(kernels, "forked", lambda work, *given: (
              [] if work is run.report else work(*given)))):
        status = run.main()
    sys.exit(status)
