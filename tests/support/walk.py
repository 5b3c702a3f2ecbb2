"""The whole walk, its second run and teardown, under answers that Google may give.

    python -m tests.support.walk usual strange random:1-20

Runs preflight and the code of the seven notebooks in this process, without kernels and pictures,
on a small theLook. Each local cloud is a copy of one whose tables are built and whose training is
in the cache, so that a walk takes seconds; with `--whole` it is empty. The second run leaves out
the planted faults and freshness, which are made anew in each run, and take half its time; so does
one that has to stop before.

Exit status: 0 every walk passed, or stopped as it must; 1 one did not.
"""

import argparse
import contextlib
import io
import json
import os
import shutil
import sys
import tempfile
import time
import traceback
from pathlib import Path
from unittest.mock import patch

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("0[1-7]_*.ipynb"))
# Every step of a run is there, each as small as it can be.
SMALL = {
    "thelook": {"users": 1000}, "snapshots": {"history_days": 210},
    "train": {"min_roc_auc": 0.0, "params": {
        "random_forest": {"n_estimators": 3, "max_depth": 3, "min_samples_leaf": 5}}},
    "waits": {"first_pause_seconds": 0.01, "longest_pause_seconds": 0.05, "iam_seconds": 30,
              "visible_seconds": 20},
    "retries": {"first_pause_seconds": 0.01, "longest_pause_seconds": 0.02},
    "label": {"positive_rate_band": [0.01, 0.999]},
    "checks": {"parity_customers": 20, "planted_customers": 20, "freshness_customers": 20,
               "max_honest_roc_auc": 1.0, "leakage_groups": 2, "future_days": [60],
               "latency_callers": 2,
               "latency_sql_requests": 1},
    "predict": {"customers": 10, "latency_requests": 10}}
NO_COPIES = {"targets": {"local": {"planted_faults": False, "freshness": False}}}
MUST_STOP = "online and offline differ"  # where `dense` is ignored


def walk(settings, folder: Path) -> dict[str, str]:
    """Preflight and the notebooks; stage -> its status. Raises what a cell raises."""
    from lib import stages
    from lib.operate import run

    run.check(settings, folder)
    for notebook in NOTEBOOKS:
        execute(notebook, settings, folder)
    return {s["name"]: s["status"] for s in stages.read_summary(folder)["stages"]}


def execute(notebook: Path, settings, folder: Path) -> None:
    """Run the code of a notebook. Raises what a cell raises, in the user's terms."""
    from lib import errors

    names = {"display": lambda *_: None}
    cells = json.loads(notebook.read_text())["cells"]
    with (_no_pictures(), contextlib.chdir(notebook.parent),
          patch.object(sys, "path", sys.path[:])):
        for number, cell in enumerate(c for c in cells if c["cell_type"] == "code"):
            try:
                exec("".join(cell["source"]), names)
                if number == 0:  # the parameters
                    names |= {"target": settings.target, "env": settings.env,
                              "run_dir": str(folder)}
            except errors.StageError:
                raise
            except Exception as error:
                where = f"cell {number}"
                raise errors.explain(error, notebook.stem, where, settings) or error from error


def _no_pictures() -> contextlib.ExitStack:
    """The charts are not drawn: they take most of the time, and ask the cloud nothing."""
    from lib import charts, widget
    from lib.charts import proof, walk  # noqa: F401, as attributes of charts
    from lib.proof import latency

    stack = contextlib.ExitStack()
    for module, name in ((charts, "proof"), (charts, "walk"), (latency, "charts"),
                         (widget, "charts")):
        stack.enter_context(patch.object(module, name))
    return stack


def prepare(state: Path) -> None:
    """Walk as far as the training, and keep the tables, the bucket and the pipeline's cache."""
    from lib.operate import teardown

    made = local_cloud(state, "usual", SMALL | NO_COPIES)
    with made as cloud, contextlib.redirect_stdout(io.StringIO()):
        for number in (1, 2, 3, 5):
            execute(NOTEBOOKS[number - 1], cloud.settings, Path(tempfile.mkdtemp(dir=state)))
        found = teardown.find(cloud)
        kept = [one for one in found.ours if one.kind not in ("dataset", "bucket")]
        assert not teardown.remove(cloud, teardown.Found(kept, [], []))


@contextlib.contextmanager
def local_cloud(state: Path, answers: str, overrides: dict):
    """A Cloud of a local cloud in `state`, which is stopped at the end."""
    from lib import config
    from lib.cloud import connect
    from lib.localcloud import process

    os.environ["CHURN_DEMO_SET"] = json.dumps(overrides)
    settings = config.load(target="local", env="dev")
    process.start(settings.project, settings.thelook.model_dump(mode="json"), state=state,
                  answers=answers)
    try:
        yield connect(settings)
    finally:
        process.stop(state)


def check(answers: str, state: Path, overrides: dict) -> str:
    """Walk twice and tear down, on the local cloud in `state`; what is wrong, "" if nothing is.
    The second walk leaves out the planted faults and freshness."""
    from lib import config
    from lib.localcloud.vertex.base.answers import POINTS, Answers
    from lib.operate import teardown

    chosen = Answers(answers)
    must_stop = any(chosen.take(name) != p.ways[0] for name, p in POINTS.items() if p.ends)
    wrong, log = [], io.StringIO()
    with local_cloud(state, answers, overrides) as cloud, contextlib.redirect_stdout(log):
        for which, changes in (("first", NO_COPIES if must_stop else {}), ("second", NO_COPIES)):
            os.environ["CHURN_DEMO_SET"] = json.dumps(overrides | changes)
            settings = config.load(target="local", env="dev")
            try:
                found = walk(settings, Path(tempfile.mkdtemp(dir=state)))
            except Exception as error:
                if not (must_stop and MUST_STOP in str(error)):
                    expected = hasattr(error, "need")
                    wrong.append(f"{which} walk: "
                                 f"{error if expected else traceback.format_exc()}")
                break
        else:
            if must_stop or {found["04_feature_store"], found["06_deploy"]} != {"reused"}:
                wrong.append(f"second walk: {found}")
        status, left = teardown.run(cloud, delete=True), teardown.find(cloud)
        if status or left.ours or left.problems:
            wrong.append(f"teardown: status {status}, left {left.ours} {left.problems}")
    return "\n".join([*wrong, log.getvalue()[-3000:]]) if wrong else ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("answers", nargs="+", help="usual, strange, random:SEED or random:1-20")
    parser.add_argument("--whole", action="store_true", help="each from an empty local cloud")
    options = parser.parse_args()
    failed = 0
    with tempfile.TemporaryDirectory(prefix="walk-") as folder:
        # A folder that does not exist yet; before lib is imported.
        state = Path(os.environ.setdefault("LOCALCLOUD_STATE", f"{folder}/state"))
        prepared = Path(folder) / "prepared"
        if not options.whole:
            state.mkdir()
            prepare(state)
            shutil.move(state, prepared)
        for answers in expand(options.answers):
            began = time.monotonic()
            state.mkdir() if options.whole else shutil.copytree(prepared, state)
            # Every second seed, and `strange`, let the view read by an account of its own.
            own = answers[-1] in "13579e"
            wrong = check(answers, state, SMALL | {
                "feature_view": {"service_agent": "view" if own else "project"}})
            failed += bool(wrong)
            print(f"{answers}: {'FAILED' if wrong else 'passed'} in "
                  f"{time.monotonic() - began:.1f} s", wrong, sep="\n" if wrong else "", flush=True)
            shutil.rmtree(state)
    return bool(failed)


def expand(given: list[str]) -> list[str]:
    """random:1-3 -> random:1, random:2, random:3"""
    found = []
    for answers in given:
        seeds, _, rest = answers.removeprefix("random:").partition(",")
        first, dash, last = seeds.partition("-")
        if answers.startswith("random:") and dash:
            found += [f"random:{n}" for n in range(int(first), int(last) + 1)]
        else:
            found.append(answers)
    return found


if __name__ == "__main__":
    sys.exit(main())
