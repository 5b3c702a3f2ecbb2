"""Kill a run at random moments, resume it, and compare the end with an undisturbed run's.

    .venv/bin/python -m scripts.kill_and_resume --trials 50 --seed 7
    .venv/bin/python -m scripts.kill_and_resume --trials 50 --seed 7 --first 18   goes on from there

Each trial starts the run from one of the seven notebooks, kills something in it by SIGKILL (the
run, a notebook's kernel, the local cloud, the model server, or a task of the training pipeline) or
stops it by Ctrl-C, and resumes it. The resumed run must end with status 0, and in the same state:
every table, the resources, the served values and the predictions. 1,500 users of theLook, small
proofs; notebook 07 makes its faulty copies only where the kill is in 07. About a minute for each
trial.

Exit status: 0 all trials passed, 1 one did not (its line says why).
"""

import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from lib.config import ROOT
from scripts import other_machines
from scripts.other_machines import SMALL, differences

STAGES = [n.stem for n in sorted((ROOT / "notebooks").glob("0[1-7]_*.ipynb"))]
SERVING, COMPONENTS = ROOT / "lib" / "serving", ROOT / "lib" / "components"
TASKS = ("data_load", "train", "eval")
# What is killed, and when: in a stage, or while a task of the pipeline runs.
WHERE = {"run": STAGES, "ctrl-c": STAGES, "kernel": STAGES, "cloud": STAGES,
         "server": ["06_deploy", "07_online_predict"], "task": list(TASKS)}
TRAINING = "03_training_set"  # starts the pipeline, which goes on behind the next stages
STOPPED = 130  # exit status after Ctrl-C
NOTICED_SECONDS = 10  # a run has ended this long after its local cloud or kernel was killed
RUN_SECONDS = 600
PROOFS = "07_online_predict"  # makes copies of the tables, and deletes them at its end
NO_COPIES = {"targets": {"local": {"planted_faults": False, "freshness": False}}}


@dataclass(frozen=True)
class Trial:
    """What is killed, where, after which share of the stage, and whether the whole run follows
    (or only the notebooks from the killed one on)."""

    victim: str
    where: str
    moment: float
    whole: bool

    @property
    def first(self) -> str:
        """The stage that the trial's run starts from."""
        return TRAINING if self.victim == "task" else self.where


def plan(trials: int, seed: int, victims: Sequence[str] = tuple(WHERE)) -> list[Trial]:
    """So many trials: the victims in turn, and for each of them its stages or tasks in turn."""
    chance = random.Random(seed)

    def turns(places: Sequence[str]) -> Iterator[str]:
        while True:
            yield from chance.sample(places, len(places))

    left = {victim: turns(places) for victim, places in WHERE.items()}
    turn = turns(victims)
    return [Trial(victim, next(left[victim]), chance.random(), chance.random() < 0.1)
            for victim in (next(turn) for _ in range(trials))]


class TooLate(Exception):
    """The victim ended before the moment to kill it: a task takes some tenths of a second."""


class Place:
    """A folder with a local cloud, its runs, and copies of its state before each stage."""

    def __init__(self, folder: Path):
        self.state, self.runs, self.copies = folder / "state", folder / "runs", folder / "copies"
        self.mark = {"LOCALCLOUD_STATE": str(self.state), "CHURN_DEMO_RUNS": str(self.runs)}
        self.environment = os.environ | self.mark | {"CHURN_DEMO_SET": json.dumps(SMALL)}
        self.seconds: dict[str, float] = {}

    def start(self, *options: str) -> subprocess.Popen:
        """./run_all.sh with these options."""
        return subprocess.Popen(
            [sys.executable, "-m", "lib.operate.run", *options], cwd=ROOT, text=True,
            env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def command(self, *words: str) -> str:
        """The output of a Python command here.

        Raises:
            RuntimeError: it failed.
        """
        done = subprocess.run([sys.executable, *words], cwd=ROOT, env=self.environment, text=True,
                              capture_output=True, timeout=RUN_SECONDS)
        if done.returncode:
            raise RuntimeError(f"{' '.join(words)[:80]}: status {done.returncode}\n"
                               f"{done.stdout[-2000:]}{done.stderr[-2000:]}")
        return done.stdout

    def finish(self, *options: str) -> None:
        """A run to its end.

        Raises:
            RuntimeError: it failed.
        """
        self.command("-m", "lib.operate.run", *options)

    def end_state(self) -> dict:
        """See `read_state`; the local cloud is stopped."""
        found = json.loads(self.command("-m", "scripts.kill_and_resume", "--read-state"))
        self.command("-m", "lib.localcloud", "stop")
        return found

    def build(self) -> dict:
        """The undisturbed run, stage by stage, with a copy before each; its end state.

        What an earlier call has built in this folder is used again.
        """
        built = self.copies / "built.json"
        if built.exists():
            self.seconds, expected = json.loads(built.read_text())
            return expected
        for stage in STAGES:
            if self.state.exists():
                shutil.copytree(self.state, self.copies / stage)
            self.finish("--only", stage[:2], "--keep-running")
            log = (self.runs / "latest" / "run.log").read_text()
            self.seconds[stage] = float(re.search(rf"{stage}: \w+ in ([\d.]+) s \|", log)[1])
            self.command("-m", "scripts.kill_and_resume", "--settle")
            self.command("-m", "lib.localcloud", "stop")
        expected = self.end_state()
        built.write_text(json.dumps([self.seconds, expected]))
        return expected

    def restore(self, stage: str) -> None:
        """The state as it was before a stage."""
        shutil.rmtree(self.state, ignore_errors=True)
        if (self.copies / stage).exists():
            shutil.copytree(self.copies / stage, self.state)

    def processes(self) -> list[psutil.Process]:
        """The processes of runs and local clouds of this folder, and all that these started."""
        found = {}
        for process in psutil.process_iter():
            try:
                environment = process.environ()
            except (psutil.Error, OSError):
                continue
            if all(environment.get(k) == v for k, v in self.mark.items()):
                for each in (process, *_children(process)):
                    found[each.pid] = each
        return list(found.values())

    def left_running(self) -> str:
        """What still runs after the local cloud was stopped; "" if nothing does."""
        left = [_words(process)[:120] for process in self.processes()]
        return f"left running: {left}" if left else ""

    def victim(self, run: subprocess.Popen, trial: Trial) -> psutil.Process | None:
        """The process to kill, if it runs now."""
        if trial.victim in ("run", "ctrl-c"):
            return psutil.Process(run.pid) if run.poll() is None else None
        if trial.victim == "kernel":
            return next((p for p in _children(psutil.Process(run.pid))
                         if _folder(p) == str(ROOT / "notebooks")), None)
        try:
            cloud = psutil.Process(json.loads((self.state / "running.json").read_text())["pid"])
        except (OSError, ValueError, psutil.Error):
            return None
        if trial.victim == "cloud":
            return cloud
        folder = SERVING if trial.victim == "server" else COMPONENTS / trial.where
        return next((p for p in _children(cloud) if _folder(p) == str(folder)), None)


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.Error:
        return []


def _words(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def _folder(process: psutil.Process) -> str:
    try:
        return process.cwd()
    except psutil.Error:
        return ""


def attempt(place: Place, trial: Trial, expected: dict) -> tuple[str, str]:
    """Do one trial: what is wrong ("" if it passed), and what happened in words."""
    place.restore(trial.first)
    changes = {} if trial.where == PROOFS else NO_COPIES
    place.environment["CHURN_DEMO_SET"] = json.dumps(SMALL | changes)
    try:
        wrong, said, done = strike(place, trial)
    except TooLate:
        return attempt(place, replace(trial, moment=trial.moment / 4), expected)
    if not wrong and not done:
        try:
            place.finish("--from", "01" if trial.whole else trial.first[:2], "--keep-running")
        except RuntimeError as error:
            return f"the resumed run failed: {error}", said
        said += ", resumed " + ("from the start" if trial.whole else f"from {trial.first[:2]}")
    return wrong or differences(expected, place.end_state()) or place.left_running(), said


def strike(place: Place, trial: Trial, start: str = "") -> tuple[str, str, bool]:
    """Start a run (from the trial's stage, or an earlier one), and kill the victim in it: what is
    wrong with how the run ended, what happened in words, and whether all its notebooks ran.

    Raises:
        TooLate: the victim, a task, was found but not killed; the run has ended.
    """
    run = place.start("--from", (start or trial.first)[:2])
    lines, killed = [], None
    for line in run.stdout:
        lines.append(line)
        if re.search(rf"\b{trial.first}: started", line):
            break
    if trial.victim not in ("server", "task"):
        time.sleep(trial.moment * place.seconds[trial.where])
    while run.poll() is None and killed is None:
        killed = place.victim(run, trial)
        if killed is None:
            time.sleep(0.02)
    if killed is None:
        lines.append(run.stdout.read())
        if run.wait() or trial.moment < 0.01:
            return "nothing was there to kill:\n" + "".join(lines)[-1500:], "", run.wait() == 0
        return strike(place, replace(trial, moment=trial.moment / 4), start)  # it was too late
    if trial.victim in ("server", "task"):
        time.sleep(trial.moment)
    below = _children(killed)
    ctrl_c = trial.victim == "ctrl-c"
    try:
        os.kill(killed.pid, signal.SIGINT if ctrl_c else signal.SIGKILL)
    except ProcessLookupError:
        run.stdout.read()  # to its end
        run.wait()
        raise TooLate(f"the {trial.where} {trial.victim} had ended") from None
    began = time.monotonic()
    # Its kernels' parent may hold the output open for another second.
    status, seconds = run.wait(), time.monotonic() - began
    lines.append(run.stdout.read())
    text = "".join(lines)
    said, done = f"status {status} after {seconds:.1f} s", status == 0
    if "Traceback" in text:
        return "a traceback:\n" + text[-3000:], said, done
    if trial.victim in ("cloud", "kernel") and seconds > NOTICED_SECONDS:
        return f"it took {seconds:.0f} s to end:\n{text[-1500:]}", said, done
    if ctrl_c and status != STOPPED:
        return f"the status is {status}:\n{text[-1500:]}", said, done
    if status == 1 and "needed: " not in text:
        return "the run does not say what is needed:\n" + text[-1500:], said, done
    # A killed run leaves its local cloud, which the next run finds; nothing else is left.
    if trial.victim == "run":
        below = [p for p in below if "lib.localcloud serve" not in _words(p)
                 and not _folder(p).startswith((str(SERVING), str(COMPONENTS)))]
    if ctrl_c and (left := place.left_running()):
        return left, said, done
    _, alive = psutil.wait_procs(below, timeout=5)
    left = [_words(p)[:120] for p in alive]
    return (f"left running: {left}" if left else ""), said, done


# What is compared


def read_state() -> dict:
    """The state of the connected cloud: what other_machines reads, the resources by kind, and how
    the endpoint's traffic is split."""
    from lib import endpoint
    from lib.cloud import connect
    from lib.operate import inventory

    cloud = connect(_settings())
    found = other_machines.read_state()
    for kind, each in inventory.KINDS.items():
        if not kind.endswith("job"):  # a job that failed stays listed, as it should
            found[kind] = sorted(
                re.sub(r"\d{12,}", "#", f"{r.name} {'' if kind == 'bucket' else r.note}".strip())
                for r in each.list(cloud))
    found["traffic"] = sorted(endpoint.find(cloud).traffic_split.values())
    return found


def settle() -> None:
    """Wait until no job of the connected cloud runs, and no sync."""
    from lib import feature_store, waiting
    from lib.cloud import connect
    from lib.training import jobs

    cloud = connect(_settings())

    def running() -> list[str]:
        found = [job.name for job in cloud.pipeline_jobs.list_pipeline_jobs(parent=cloud.parent)
                 if jobs.state(job) not in jobs.ENDED]
        views = [v for store in cloud.online_admin.list_feature_online_stores(parent=cloud.parent)
                 for v in cloud.online_admin.list_feature_views(parent=store.name)]
        if views:
            found += [s.name for s in feature_store.list_syncs(cloud)
                      if not feature_store.is_done(s)]
        return found

    waiting.until(cloud.settings, "jobs and syncs", running, lambda names: not names, 300)


def _settings():
    from lib import config

    return config.load(target="local", env="dev")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m scripts.kill_and_resume", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--first", type=int, default=1, metavar="N",
                        help="leave out the trials before this one")
    parser.add_argument("--victim", choices=WHERE, help="kill only this; default: each in turn")
    parser.add_argument("--folder", help="a folder for the undisturbed run, to be used again; "
                                         "default: a temporary one")
    # What it calls in processes of their own, since a process keeps the addresses it has found.
    parser.add_argument("--read-state", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--settle", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.read_state or options.settle:
        print(json.dumps(read_state() if options.read_state else settle()))
        return 0
    # A background job of a script ignores Ctrl-C, and so would the runs that it starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    passed = 0
    with tempfile.TemporaryDirectory(prefix="kill-and-resume-") as temporary:
        place = Place(Path(options.folder or temporary).resolve())
        try:
            expected = place.build()
            print(f"undisturbed: {len(expected)} parts, "
                  f"{sum(place.seconds.values()):.0f} s", flush=True)
            victims = [options.victim] if options.victim else list(WHERE)
            trials = plan(options.trials, options.seed, victims)
            for number, trial in list(enumerate(trials, 1))[options.first - 1:]:
                began = time.monotonic()
                try:
                    wrong, said = attempt(place, trial, expected)
                except RuntimeError as error:
                    wrong, said = str(error), ""
                passed += not wrong
                print(f"[{number}/{options.trials}] {trial.victim} in {trial.where} at "
                      f"{trial.moment:.2f}: {said}, {'FAILED: ' + wrong if wrong else 'passed'} "
                      f"({time.monotonic() - began:.0f} s)", flush=True)
                for process in place.processes():
                    process.kill()
        finally:
            for process in place.processes():
                process.kill()
    done = options.trials - options.first + 1
    print(f"{passed} of {done} passed, seed {options.seed}")
    return 0 if passed == done else 1


if __name__ == "__main__":
    sys.exit(main())
