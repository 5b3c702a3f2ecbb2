"""python -m lib.localcloud start|status|stop|reset"""

import argparse
import gc
import sys

from lib.localcloud import ledger, process
from lib.localcloud.vertex.base.answers import Answers

DEFAULT_THELOOK = {"users": 100_000, "seed": 7, "as_of": "2026-07-03T00:40:00Z"}
SHOWN = ("pid", "project", "answers", "vertex", "vertex_grpc", "bigquery", "bigquery_grpc",
         "storage", "admin")


def main() -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m lib.localcloud", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    start = commands.add_parser("start", help="start it, or report where it runs")
    start.add_argument("--project", default="local-demo")
    start.add_argument("--users", type=int, default=DEFAULT_THELOOK["users"])
    start.add_argument("--seed", type=int, default=DEFAULT_THELOOK["seed"])
    start.add_argument("--as-of", default=DEFAULT_THELOOK["as_of"], help="end of the orders")
    start.add_argument("--runner", choices=("process", "container"), default=None,
                       help="how pipeline tasks and custom jobs run; container: on DOCKER_HOST")
    start.add_argument("--answers", type=_answers, metavar="usual|strange|random:SEED",
                       help="how it answers where Google may choose; README.md has the choices")
    commands.add_parser("status", help="report where it runs; exit status 1 if it does not answer")
    commands.add_parser("stop", help="stop it; its data are kept")
    commands.add_parser("reset", help="stop it and delete its data")
    serve = commands.add_parser("serve", help="run in the foreground (what `start` launches)")
    serve.add_argument("arguments", help="JSON: see lib/localcloud/server.py")
    options = parser.parse_args()

    if options.command == "serve":
        # The imports make a million objects that stay. Not searching them for garbage saves a
        # quarter of the start, and a tenth of a second now and then later.
        gc.disable()
        # google-cloud-bigquery would import IPython, for a progress bar in notebooks; structlog
        # rich and what that needs, for colours.
        sys.modules["tqdm"] = sys.modules["rich"] = None
        from lib.localcloud import server

        gc.freeze()
        gc.enable()
        server.run(options.arguments)
        return 0
    try:
        return _manage(options)
    except process.LocalCloudError as error:
        print(f"{error}\nneeded:    {error.need}", file=sys.stderr)
        if error.command:
            print(f"command:   {error.command}", file=sys.stderr)
        return 1


def _answers(given: str) -> str:
    try:
        Answers(given)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return given


def _manage(options: argparse.Namespace) -> int:
    """start, status, stop or reset; returns the exit status."""
    if options.command == "start":
        thelook = {"users": options.users, "seed": options.seed, "as_of": options.as_of}
        running, new = process.start(options.project, thelook, runner=options.runner,
                                     answers=options.answers)
        print("started" if new else "already running")
        _show(running)
    elif options.command == "status":
        running = process.status()
        if not running:
            pid = process.owner()
            print(f"running, pid {pid}, not answering ({process.STOP})" if pid else "not running")
            return 1
        _show(running)
        print(f"  {'fidelity':<14}{ledger.counts()}")
    elif options.command == "stop":
        print("stopped" if process.stop() else "was not running")
    else:
        process.reset()
        print("stopped; its data are deleted")
    return 0


def _show(running: dict) -> None:
    for key in SHOWN:
        if key in running:
            print(f"  {key:<14}{running[key]}")


if __name__ == "__main__":
    sys.exit(main())
