"""python -m lib.localcloud start|status|stop|reset"""

import argparse
import json
import sys
from pathlib import Path

from lib.localcloud import process

DEFAULT_THELOOK = {"users": 100_000, "seed": 7, "as_of": "2026-07-03T00:40:00Z"}


def main() -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m lib.localcloud", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    start = commands.add_parser("start", help="start it, or say where it runs")
    start.add_argument("--project", default="local-demo")
    start.add_argument("--users", type=int, default=DEFAULT_THELOOK["users"])
    start.add_argument("--seed", type=int, default=DEFAULT_THELOOK["seed"])
    start.add_argument("--as-of", default=DEFAULT_THELOOK["as_of"], help="end of the orders")
    start.add_argument("--runner", choices=("process", "container"), default=None,
                       help="how pipeline tasks and custom jobs run; container: on DOCKER_HOST")
    start.add_argument("--admin", action="store_true", default=None,
                       help="for tests: record requests, and take faults (README.md here)")
    commands.add_parser("status", help="where it runs; status 1 if it does not")
    commands.add_parser("stop", help="stop it; its data stay")
    commands.add_parser("reset", help="stop it and delete its data")
    serve = commands.add_parser("serve", help="run in the foreground (what `start` launches)")
    serve.add_argument("arguments", help="JSON: state, project, thelook, images, runner, admin")
    options = parser.parse_args()

    if options.command == "serve":
        from lib.localcloud import server

        given = json.loads(options.arguments)
        images = {name: Path(folder) for name, folder in given["images"].items()}
        server.run(Path(given["state"]), given["project"], given["thelook"], images,
                   given.get("runner", "process"), given.get("admin", False))
        return 0
    if options.command == "start":
        thelook = {"users": options.users, "seed": options.seed, "as_of": options.as_of}
        try:
            running, new = process.start(
                options.project, thelook, runner=options.runner, admin=options.admin)
        except process.LocalCloudError as error:
            print(error, file=sys.stderr)
            return 1
        print("started" if new else "already running")
        return _show(running)
    if options.command == "status":
        running = process.status()
        if not running:
            print("not running")
        return _show(running) if running else 1
    if options.command == "stop":
        print("stopped" if process.stop() else "was not running")
    else:
        process.reset()
        print("stopped; its data are deleted")
    return 0


def _show(running: dict) -> int:
    for key in ("pid", "project", "vertex", "bigquery", "bigquery_grpc", "storage", "admin"):
        if key in running:
            print(f"  {key:<14}{running[key]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
