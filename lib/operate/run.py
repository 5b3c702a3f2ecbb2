"""Check the project, then run the seven notebooks in order, unattended; what ./run_all.sh calls.

Each run gets a folder runs/<run_id>/ with the executed notebooks, run.log and summary.json;
runs/latest points to the newest. Everything is created or reused, so a run that was stopped is
simply started again.

Exit status: 0 all notebooks ran, 1 one failed, 2 a bad command line or config.yaml, 130 stopped
by Ctrl-C.
"""

import argparse
import json
import logging
import os
import re
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from lib import cloud as clouds
from lib import config, errors, stages
from lib.config import ROOT, Settings

NOTEBOOKS = sorted((ROOT / "notebooks").glob("0[1-7]_*.ipynb"))


def main(arguments: list[str] | None = None) -> int:
    """The command; returns the exit status."""
    options = _parser().parse_args(arguments)
    _export(options)
    try:
        settings = config.load(target=options.target, env=options.env)
    except config.ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    chosen = [n for n in NOTEBOOKS
              if (n.name[:2] == options.only if options.only else n.name[:2] >= options.first)]
    folder = _new_folder(settings)
    os.environ[config.RUN_VARIABLE] = folder.name  # the notebooks label with it what they make
    settings = settings.model_copy(update={"run_id": folder.name})
    began = time.monotonic()
    cloud = None
    try:
        # -- before the first notebook: credentials, the local cloud, and all that may be missing
        cloud = clouds.connect(settings)
        _say(folder, f"run {folder.name}: {cloud.note}, env {settings.env}, "
                     f"source {settings.source}")
        _check(cloud, folder)
        for number, notebook in enumerate(chosen, 1):
            _execute(notebook, settings, folder, f"[{number}/{len(chosen)}]")
        _close(folder, time.monotonic() - began)
        from lib.report import report  # here: a bad configuration is told before all that is loaded

        for line in report.after_run(folder):
            _say(folder, line)
        return 0
    except KeyboardInterrupt:
        _say(folder, "stopped; start again to go on: what stands is reused")
        return 130
    except Exception as error:
        told = errors.explain(error, "start", "connecting", settings)
        if told is None and not isinstance(error, _Failed):
            raise
        _say(folder, f"\n{told or error}\n\nlog: {_relative(folder / 'run.log')}")
        return 1
    finally:
        os.environ.pop(config.RUN_VARIABLE, None)
        if cloud and settings.target_settings.billed:
            from lib.operate import teardown

            for line in teardown.told(teardown.standing(cloud), settings):
                _say(folder, line)
        if cloud and cloud.started_local and not options.keep_running:
            clouds.stop_local()


class _Failed(RuntimeError):
    """A notebook failed; the message is for the user."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="./run_all.sh", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    numbers = [n.name[:2] for n in NOTEBOOKS]
    parser.add_argument("--target", choices=["local", "gcp"], help="default: config.yaml's")
    parser.add_argument("--env", choices=["dev", "prod"], help="default: config.yaml's")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--from", dest="first", default="01", choices=numbers, metavar="NN",
                       help="first notebook to run, e.g. 04")
    which.add_argument("--only", choices=numbers, metavar="NN", help="one notebook, e.g. 07")
    parser.add_argument("--source", metavar="FOLDER",
                        help="somebody's export of theLook (.csv or .parquet) instead of "
                             "config.yaml's source")
    parser.add_argument("--config", metavar="FILE", help="another file than config.yaml")
    parser.add_argument("--keep-running", action="store_true",
                        help="leave the local cloud up, to go on in JupyterLab")
    return parser


def _export(options: argparse.Namespace) -> None:
    """Hand --config and --source on to the notebooks' own processes."""
    if options.config:
        os.environ[config.CONFIG_VARIABLE] = str(Path(options.config).resolve())
    if options.source:
        path = Path(options.source)
        given = str(path.resolve()) if path.exists() else options.source
        os.environ[config.SETTINGS_VARIABLE] = json.dumps({"source": given})


def _new_folder(settings: Settings) -> Path:
    run_id = f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{settings.target}-{settings.env}"
    folder = stages.RUNS / run_id
    folder.mkdir(parents=True, exist_ok=True)
    stages.write_summary(folder, stages.new_summary(run_id, settings))
    latest = stages.RUNS / "latest"
    latest.unlink(missing_ok=True)
    latest.symlink_to(run_id)
    return folder


def _check(cloud: clouds.Cloud, folder: Path) -> None:
    """Preflight, as the stage before the first notebook.

    Raises:
        lib.errors.StageError: something that the run needs is missing.
    """
    from lib.operate import preflight

    began = time.monotonic()
    run = stages.open_run("00_preflight", cloud.settings, folder, quiet=True)
    run.step("preflight", preflight.require, cloud)
    run.finish()
    figures = stages.read_summary(folder)["stages"][0]["figures"]["preflight"]
    told = ", ".join(f"{value} {key}" for key, value in figures.items())
    took = time.monotonic() - began
    _say(folder, f"[0/{len(NOTEBOOKS)}] 00_preflight: done in {took:.1f} s | {told}")


def _execute(notebook: Path, settings: Settings, folder: Path, position: str) -> None:
    """Run one notebook by papermill and say in one line what came of it.

    Raises:
        _Failed: with the stage's own error, or the cell's.
    """
    import papermill
    from papermill.exceptions import PapermillExecutionError

    logging.getLogger("papermill").setLevel(logging.ERROR)
    bar = {"desc": f"{position} {notebook.stem}", "leave": False} if sys.stderr.isatty() else False
    parameters = {"target": settings.target, "env": settings.env, "run_dir": str(folder)}
    if not bar:
        print(f"{position} {notebook.stem}: started", flush=True)
    began = time.monotonic()
    try:
        papermill.execute_notebook(
            notebook, folder / notebook.name, parameters=parameters, cwd=notebook.parent,
            kernel_name="python3", progress_bar=bar, stdout_file=_Progress(folder),
            # Else ipykernel warns, at every start, that loopback is not encrypted.
            extra_arguments=["--IPKernelApp.log_level=ERROR"])
    except PapermillExecutionError as error:
        raise _Failed(_cell_error(error, notebook.stem)) from None
    summary = stages.read_summary(folder)
    stage = next(s for s in summary["stages"] if s["name"] == notebook.stem)
    took = time.monotonic() - began
    _say(folder, f"{position} {notebook.stem}: {stage['status']} in {took:.1f} s"
                 f" | {_headline(summary, notebook.stem)}")


class _Progress:
    """Takes what the cells print; shows the lines of a long wait, which are indented."""

    def __init__(self, folder: Path):
        self.folder, self._rest = folder, ""

    def write(self, text: str) -> None:
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            if line.startswith("  "):
                _say(self.folder, line)

    def flush(self) -> None:
        pass


def _cell_error(error: Exception, stage: str) -> str:
    """What the user is told of a cell's error; lib/stages.py has explained all but bugs."""
    if error.ename == "StageError":
        return error.evalue
    traceback = re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(error.traceback))  # no colours in a log
    return (f"stage:     {stage}\ncause:     {error.ename}: {error.evalue}\n"
            f"needed:    a fix in the code; the traceback of cell {error.exec_count}:\n{traceback}")


def _headline(summary: dict, stage: str) -> str:
    """The key figures of one stage, for its one line."""
    entry = next(s for s in summary["stages"] if s["name"] == stage)
    if stage == "05_train" and summary["metrics"]:
        metrics = summary["metrics"]
        return (f"test ROC-AUC {metrics['roc_auc']:.3f} (0.5 = guessing), PR-AUC "
                f"{metrics['pr_auc']:.3f} (base rate {metrics['positive_rate']:.3f})")
    if stage == "03_training_set" and summary["labels"]:
        labels = summary["labels"]
        return f"{labels['rows']:,} label rows, positive rate {labels['positive_rate']:.3f}"
    if stage == "07_online_predict" and summary["predictions"]:
        answers = summary["predictions"]
        return (f"{len(answers)} customers predicted; fetch p50 "
                f"{summary['latency_ms']['fetch_p50']:.1f} ms, predict p50 "
                f"{summary['latency_ms']['predict_p50']:.1f} ms")
    return ", ".join(name.rsplit("/", 1)[-1] for name in entry["resources"].values())


def _close(folder: Path, seconds: float) -> None:
    summary = {**stages.read_summary(folder), "seconds": round(seconds, 1)}
    stages.write_summary(folder, summary)
    for answer in (summary["predictions"] or [])[:3]:
        _say(folder, f"customer {answer['customer_id']}: churn probability "
                     f"{answer['churn_probability']:.3f}")
    _say(folder, f"finished in {seconds:.0f} s: {_relative(folder)}/summary.json")


def _say(folder: Path, line: str) -> None:
    print(line, flush=True)
    with (folder / "run.log").open("a", encoding="utf-8") as log:
        log.write(line + "\n")


def _relative(path: Path) -> str:
    return str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)


if __name__ == "__main__":
    sys.exit(main())
