"""Check the project, then run the seven notebooks in order, unattended; what ./run_all.sh calls.

Each run gets a folder runs/<run_id>/ with the executed notebooks, run.log and summary.json;
runs/latest points to the newest. Everything is created or reused, so a run that was stopped can
simply be started again.

Exit status: 0 all notebooks ran, 1 one failed, 2 a bad command line or config.yaml, 130 stopped
by Ctrl-C.
"""

import argparse
import gc
import logging
import os
import re
import sys
import time
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from datetime import UTC, datetime
from operator import itemgetter
from pathlib import Path

from tqdm import tqdm

from lib import cli, config, errors, stages
from lib.cloud import Cloud, connect, connected
from lib.config import ROOT, RUN_VARIABLE, Settings, relative
from lib.language import LANGUAGES
from lib.operate import kernels

NOTEBOOKS = sorted((ROOT / "notebooks").glob("0[1-7]_*.ipynb"))
KEPT = """\
The local cloud is still running. To go on in JupyterLab, and to stop the local cloud at the end:
  .venv/bin/python -m jupyterlab {folder}
  .venv/bin/python -m lib.localcloud stop"""


class NotebookFailed(RuntimeError):
    """A cell raised an error; the message is for the user."""


def main(arguments: list[str] | None = None) -> int:
    """The command; returns the exit status."""
    return cli.run(parser().parse_args(arguments), "start", "connecting", _run)


def parser() -> argparse.ArgumentParser:
    """The options of ./run_all.sh."""
    made = cli.parser("./run_all.sh", __doc__)
    numbers = [n.name[:2] for n in NOTEBOOKS]
    which = made.add_mutually_exclusive_group()
    which.add_argument("--from", dest="first", default="01", choices=numbers, metavar="NN",
                       help="first notebook to run, e.g. 04")
    which.add_argument("--only", choices=numbers, metavar="NN", help="one notebook, e.g. 07")
    made.add_argument("--lang", choices=LANGUAGES,
                      help="language of charts, report, slides and the notebooks as presented; "
                           "default: language in config.yaml")
    made.add_argument("--keep-running", action="store_true",
                      help="leave the local cloud running, to go on in JupyterLab")
    return made


def _run(settings: Settings, options: argparse.Namespace) -> int:
    """Run the chosen notebooks in a new folder; all that is printed is also in its run.log."""
    chosen = [n for n in NOTEBOOKS
              if (n.name[:2] == options.only if options.only else n.name[:2] >= options.first)]
    with stages.alone("latest"):
        return _run_in(_new_folder(settings), settings, chosen, options.keep_running)


def _run_in(folder: Path, settings: Settings, chosen: list[Path], keep_running: bool) -> int:
    """Run these notebooks in a folder of the run; the exit status."""
    say(folder, f"run {folder.name}: starting; its log: {relative(folder / 'run.log')}")
    kernels.warm()
    os.environ[RUN_VARIABLE] = folder.name  # the notebooks label with it what they make
    settings = settings.model_copy(update={"run_id": folder.name})
    try:
        with connected(settings, keep_running, ["lib.operate.engine"]) as cloud:
            try:
                _run_notebooks(cloud, chosen, folder)
            finally:
                _say_what_is_billed(cloud, folder)
            if keep_running and (cloud.started_local or cloud.local_pid):
                from lib import prose

                say(folder, KEPT.format(folder=relative(
                    prose.folder(ROOT / "notebooks", settings.language))))
        return 0
    except KeyboardInterrupt:
        _close_running(folder)
        say(folder, "stopped; start the run again to continue: what exists is reused")
        return 130
    except Exception as error:
        running = _close_running(folder)
        doing = (running, "running the notebook") if running else ("start", "connecting")
        explained = errors.explain(error, *doing, settings)
        if explained is None and not isinstance(error, NotebookFailed):
            raise
        say(folder, f"\n{explained or error}\n\nlog: {relative(folder / 'run.log')}")
        return 1
    finally:
        os.environ.pop(RUN_VARIABLE, None)


def _close_running(folder: Path) -> str | None:
    """Record that the stage which was running has failed; its name, None if there is none."""
    begun = [n.stem for n in sorted(folder.glob("0*.ipynb"))]  # papermill writes it at the start
    with suppress(OSError):  # the disk may be full, which is said then
        running = stages.close_running(folder)
        known = {stage["name"] for stage in stages.read_summary(folder)["stages"]}
        return running or next((name for name in begun if name not in known), None)
    return begun[-1] if begun else None


def _new_folder(settings: Settings) -> Path:
    run_id = f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{settings.target}-{settings.env}"
    folder = stages.RUNS / run_id
    folder.mkdir(parents=True, exist_ok=True)
    stages.write_summary(folder, stages.new_summary(run_id, settings))
    config.save_options(folder)
    latest = stages.RUNS / "latest"
    latest.unlink(missing_ok=True)
    latest.symlink_to(run_id)
    return folder


def _run_notebooks(cloud: Cloud, notebooks: list[Path], folder: Path) -> None:
    began = time.monotonic()
    settings = cloud.settings
    say(folder, f"run {folder.name}: {cloud.note}, env {settings.env}, source {settings.source}")
    _preflight(settings, folder)
    for number, notebook in enumerate(notebooks, 1):
        _execute(notebook, settings, folder, f"[{number}/{len(notebooks)}]")
    summary = {**stages.read_summary(folder), "seconds": round(time.monotonic() - began, 1)}
    stages.write_summary(folder, summary)
    if summary["predictions"]:
        say(folder, _extremes(summary["predictions"]))
    say(folder, f"finished in {summary['seconds']:.0f} s")
    try:
        lines = kernels.forked(report, folder)
    except BrokenProcessPool:
        lines = ["report.html could not be made: something has killed its process, or memory ran "
                 "out; the run itself is complete: .venv/bin/python -m lib.report"]
    for line in (*lines, f"summary.json: {relative(folder)}/summary.json"):
        say(folder, line)


def _preflight(settings: Settings, folder: Path) -> None:
    began = time.monotonic()
    try:
        figures = kernels.forked(check, settings, folder)
    except BrokenProcessPool:
        raise _killed("00_preflight", "preflight", settings.rerun_command()) from None
    say(folder, f"[0/{len(NOTEBOOKS)}] 00_preflight: done in {time.monotonic() - began:.1f} s | "
                + ", ".join(f"{value} {key}" for key, value in figures.items()))


def check(settings: Settings, folder: Path) -> dict[str, int]:
    """Preflight, as the stage before the first notebook; its figures.

    Raises:
        lib.errors.StageError: something that the run needs is missing.
    """
    from lib.operate import preflight

    run = stages.open_stage("00_preflight", settings, folder, quiet=True)
    run.step("preflight", preflight.require, connect(settings))
    run.finish()
    return stages.read_summary(folder)["stages"][0]["figures"]["preflight"]


def report(folder: Path) -> list[str]:
    """Make the report and the slides; one line each to print."""
    from lib.report import report

    return report.after_run(folder)


def _execute(notebook: Path, settings: Settings, folder: Path, position: str) -> None:
    """Run one notebook by papermill, and print one line about it.

    Raises:
        NotebookFailed: with the stage's own error, or the cell's.
        lib.errors.StageError: the notebook's process has ended.
    """
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    from lib import prose  # and papermill: imported while the local cloud starts
    from lib.operate import engine

    logging.getLogger("papermill").setLevel(logging.ERROR)
    bar = {"desc": f"{position} {notebook.stem}", "leave": False} if sys.stderr.isatty() else False
    parameters = {"target": settings.target, "env": settings.env, "run_dir": str(folder)}
    if not bar:
        print(f"{position} {notebook.stem}: started", flush=True)
    began = time.monotonic()
    try:
        papermill.execute_notebook(
            prose.localized(notebook, settings.language), folder / notebook.name,
            engine_name=engine.NAME, parameters=parameters, cwd=notebook.parent,
            kernel_name="python3", kernel_manager_class=kernels.Kernels, progress_bar=bar,
            stdout_file=_Progress(folder), shutdown_kernel="immediate",
            # Else ipykernel warns that loopback is not encrypted, and of the interrupt at its end.
            extra_arguments=["--IPKernelApp.log_level=CRITICAL"])
    except PapermillExecutionError as error:
        raise NotebookFailed(_cell_error(error, notebook.stem)) from None
    except RuntimeError as error:
        # nbclient's of a kernel at work; jupyter_client's of one that was still starting has no
        # class of its own.
        if not (isinstance(error, DeadKernelError) or str(error).startswith("Kernel died")):
            raise
        raise _killed(notebook.stem, "running the notebook",
                      settings.rerun_command(notebook.stem[:2])) from None
    finally:
        kernels.end()
    summary = stages.read_summary(folder)
    stage = next(s for s in summary["stages"] if s["name"] == notebook.stem)
    say(folder, f"{position} {notebook.stem}: {stage['status']} in "
                f"{time.monotonic() - began:.1f} s | {_headline(summary, stage)}")


def _killed(stage: str, attempted: str, command: str) -> errors.StageError:
    return errors.StageError(
        stage, attempted, "its Python process has ended: something has killed it, or memory ran "
        "out", "free memory; what was made so far is kept and reused", command)


class _Progress:
    """A file for what the cells print; shows the lines of a long wait, which are indented."""

    def __init__(self, folder: Path):
        self.folder, self._rest = folder, ""

    def write(self, text: str) -> None:
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            if line.startswith("  "):
                say(self.folder, line)

    def flush(self) -> None:
        pass


def _cell_error(error: Exception, stage: str) -> str:
    """The message for a cell's error. stages.open_stage has it explained as a StageError in the
    notebook; what it cannot explain is a bug, and keeps its traceback."""
    if error.ename == "StageError":
        return error.evalue
    traceback = re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(error.traceback))  # no colours in a log
    return (f"stage:     {stage}\ncause:     {error.ename}: {error.evalue}\n"
            f"needed:    a fix in the code; the traceback of cell {error.exec_count}:\n{traceback}")


def _headline(summary: dict, stage: dict) -> str:
    """The key figures of one stage, for its line."""
    if stage["name"] == "05_train" and summary["metrics"]:
        metrics = summary["metrics"]
        return (f"test ROC-AUC {metrics['roc_auc']:.3f} (0.5 = guessing), PR-AUC "
                f"{metrics['pr_auc']:.3f} (base rate {metrics['positive_rate']:.3f})")
    if stage["name"] == "03_training_set" and summary["labels"]:
        labels = summary["labels"]
        return f"{labels['rows']:,} label rows, positive rate {labels['positive_rate']:.3f}"
    if stage["name"] == "07_online_predict" and summary["predictions"]:
        latency = summary["latency_ms"]
        return (f"{len(summary['predictions'])} customers predicted; fetch p50 "
                f"{latency['fetch_p50']:.1f} ms, predict p50 {latency['predict_p50']:.1f} ms")
    return ", ".join(dict.fromkeys(map(stages.short, stage["resources"].values())))


def _extremes(predictions: list[dict]) -> str:
    """The two customers least and most likely to churn, in one line."""
    low, high = (end(predictions, key=itemgetter("churn_probability")) for end in (min, max))
    return (f"customer {low['customer_id']}: churn probability {low['churn_probability']:.3f}, the "
            f"lowest of {len(predictions)}; customer {high['customer_id']}: "
            f"{high['churn_probability']:.3f}, the highest")


def _say_what_is_billed(cloud: Cloud, folder: Path) -> None:
    if cloud.settings.target_settings.billed:
        from lib.operate import teardown

        for line in teardown.still_billed(cloud):
            say(folder, line)


def say(folder: Path, line: str) -> None:
    """Print a line, above the progress bar if there is one, and append it to the run's log."""
    tqdm.write(line)
    sys.stdout.flush()
    # A full disk ends the run where its notebooks are written; here it must still be said.
    with suppress(OSError), (folder / "run.log").open("a", encoding="utf-8") as log:
        log.write(line + "\n")


if __name__ == "__main__":
    status = main()
    gc.freeze()  # else Python searches all imported packages for garbage once more, for a second
    sys.exit(status)
