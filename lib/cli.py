"""What every command shares: options, settings, error messages, exit status.

Exit status: 0 done, 1 it failed (the message says what is needed), 2 a bad command line or
config.yaml, 130 stopped by Ctrl-C; a command may return another one.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

from lib import config, errors
from lib.config import Settings

Work = Callable[[Settings, argparse.Namespace], int | None]


def parser(prog: str, description: str | None) -> argparse.ArgumentParser:
    """A parser with the options that every command takes.

    prog: as typed, such as "python -m lib.predict". description: the module's docstring.
    """
    made = argparse.ArgumentParser(
        prog=prog, description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--target", choices=["local", "gcp"],
                      help="the local stand-in or Google Cloud; default: target in config.yaml")
    made.add_argument("--env", choices=["dev", "prod"],
                      help="part of every resource name; default: env in config.yaml")
    made.add_argument("--source", metavar="FOLDER",
                      help="a folder with a shop's orders (.csv or .parquet; lib/README.md, "
                           "\"Bring your own orders\") instead of the built-in data")
    made.add_argument("--config", metavar="FILE", help="another file than config.yaml")
    return made


def load(options: argparse.Namespace) -> Settings:
    """The settings for these options; --config, --source and --lang also apply to child processes.

    Raises:
        lib.config.ConfigError: config.yaml cannot be used.
    """
    if options.config:
        os.environ[config.CONFIG_VARIABLE] = str(Path(options.config).resolve())
    given = {"language": getattr(options, "lang", None)}
    if options.source:
        path = Path(options.source)
        given["source"] = str(path.resolve()) if path.exists() else options.source
    if given := {key: value for key, value in given.items() if value}:
        os.environ[config.SETTINGS_VARIABLE] = json.dumps({**config.given_overrides(), **given})
    settings = config.load(target=options.target, env=options.env)
    if options.source and settings.source_is_folder and not settings.source_folder.exists():
        raise config.ConfigError(
            f"--source {options.source}: there is no such folder; give the folder with the export, "
            "or a BigQuery dataset (project.dataset)")
    return settings


def run(options: argparse.Namespace, stage: str, attempted: str, work: Work) -> int:
    """Load the settings, call `work(settings, options)`, print any error; the exit status.

    stage, attempted: named in the message of an error. An error that no user can act on is a bug
    of ours and keeps its traceback.
    """
    try:
        settings = load(options)
    except config.ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    try:
        _check_home(settings)
        status = work(settings, options) or 0
        print(end="", flush=True)  # what is still buffered
        return status
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:
        if not _output_is_closed():
            raise
        print("stopped: nothing reads the output any more", file=sys.stderr)
        return 1
    except Exception as error:
        explained = errors.explain(error, stage, attempted, settings)
        if explained is None:
            raise
        print(explained, file=sys.stderr)
        return 1


def _output_is_closed() -> bool:
    """Has what read the output ended, as in `... | head -1`? Then what is left goes nowhere, since
    Python would fail once more at its end."""
    try:
        print(flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True
    return False


def _check_home(settings: Settings) -> None:
    """Raise Needed without a home folder, where DuckDB, Jupyter and Matplotlib keep files."""
    try:
        home = Path(os.environ.setdefault("HOME", str(Path.home())))
    except RuntimeError:  # neither $HOME nor an account
        home = None
    if home is None or not (home.is_dir() and os.access(home, os.W_OK | os.X_OK)):
        raise errors.Needed(
            f"the home folder {home} cannot be written" if home else "there is no home folder",
            "a home folder: DuckDB, Jupyter and Matplotlib keep files there",
            f"HOME=$(mktemp -d) {settings.rerun_command()}")
