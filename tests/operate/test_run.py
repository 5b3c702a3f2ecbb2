"""./run_all.sh: options, exit status, and what a failing notebook leaves."""

import io
import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, nullcontext, redirect_stdout
from functools import partial
from types import SimpleNamespace

import filelock
import nbformat
import papermill
import pytest

from lib import cloud, config, localcloud, refresh, stages
from lib.config import ROOT
from lib.localcloud import process
from lib.operate import kernels, run, schedule, teardown

# The command, for a run that ends before it needs a kernel: its imports would go on for seconds.
COMMAND = """
import sys
from lib.operate import kernels, run
kernels.warm = lambda: None
sys.exit(run.main())
"""


def command(*arguments, **variables):
    return subprocess.run(
        [sys.executable, "-c", COMMAND, *arguments], cwd=ROOT, text=True, capture_output=True,
        timeout=60, env={**os.environ, **variables})


def test_help_names_every_option():
    done = command("--help")
    assert done.returncode == 0
    for option in ("--target", "--env", "--from", "--only", "--keep-running", "--source",
                   "--config"):
        assert option in done.stdout


@pytest.mark.parametrize("arguments", [("--target", "aws"), ("--from", "09"), ("--nonsense",),
                                       ("--from", "02", "--only", "03")])
def test_a_bad_option_ends_with_status_2(arguments):
    with pytest.raises(SystemExit) as ended:
        run.main(list(arguments))
    assert ended.value.code == 2


def test_a_bad_config_ends_with_status_2_and_names_the_key(tmp_path, capsys):
    text = (ROOT / "config.yaml").read_text().replace("horizon_days: 60", "horizon_days: 45")
    (tmp_path / "mine.yaml").write_text(text)
    assert run.main(["--config", str(tmp_path / "mine.yaml")]) == 2
    assert "label.horizon_days = 45" in capsys.readouterr().err


def test_gcp_without_credentials_says_what_to_do(tmp_path):
    text = (ROOT / "config.yaml").read_text().replace("your-project-id", "some-project-1")
    (tmp_path / "mine.yaml").write_text(text)
    # An empty home folder has no credentials of gcloud's; there is no metadata server either.
    done = command("--target", "gcp", "--config", str(tmp_path / "mine.yaml"),
                   HOME=str(tmp_path), CLOUDSDK_CONFIG=str(tmp_path), NO_GCE_CHECK="true",
                   CHURN_DEMO_RUNS=str(tmp_path / "runs"))
    assert done.returncode == 1
    assert "gcloud auth application-default login" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


def fake(patch, folder, settings):
    """Tiny notebooks instead of the seven, another folder for runs, no cloud at all, and a report
    without pages."""
    def write(name, *cells):
        book = nbformat.v4.new_notebook(cells=[
            nbformat.v4.new_code_cell("target = env = None\nrun_dir = ''",
                                      metadata={"tags": ["parameters"]}),
            nbformat.v4.new_markdown_cell("Prose"),
            nbformat.v4.new_code_cell(
                f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n"
                "from lib import config, stages\n"
                f"run = stages.open_stage({name!r}, config.load(target=target, env=env), run_dir)"),
            *map(nbformat.v4.new_code_cell, cells)])
        book.metadata["language_info"] = {"name": "python"}
        nbformat.write(book, folder / f"{name}.ipynb")
        return folder / f"{name}.ipynb"

    patch.setattr(kernels, "forked", lambda work, *_: {} if work is run.check else [])
    patch.setattr(cloud, "connect", lambda settings, *_: SimpleNamespace(
        settings=settings, note="no cloud", started_local=False, local_pid=None))
    patch.setattr(stages, "RUNS", folder / "runs")
    return lambda *books: patch.setattr(run, "NOTEBOOKS", [write(*b) for b in books])


@pytest.fixture
def fake_notebooks(tmp_path, monkeypatch, settings):
    """fake_notebooks((name, cell, ...), ...): the notebooks of the next run."""
    return fake(monkeypatch, tmp_path, settings)


@pytest.fixture
def without_kernels(fake_notebooks, monkeypatch):
    """The same, for a run whose notebooks are executed in this process."""
    def execute(notebook, output, parameters, **_):
        names = {}
        for cell in nbformat.read(notebook, as_version=4).cells:
            if cell.cell_type == "code":
                exec(cell.source, names)
            names |= parameters

    monkeypatch.setattr(papermill, "execute_notebook", execute)
    return fake_notebooks


@pytest.fixture(scope="module")
def finished(tmp_path_factory, settings):
    """One run to its end: its folder, what it printed, also before it connected, how often it
    stopped the local cloud, and (notebook, cells with output) each time that papermill wrote one.
    Jupyter finds another kernel first; the report is made."""
    folder, out, stops = tmp_path_factory.mktemp("finished"), io.StringIO(), []
    other = folder / "jupyter" / "kernels" / "python3"
    other.mkdir(parents=True)
    (other / "kernel.json").write_text(json.dumps({
        "argv": ["false", "{connection_file}"], "display_name": "Other", "language": "python"}))

    def connect(settings, *_):
        found.before = out.getvalue()
        return SimpleNamespace(settings=settings, note="local cloud started", started_local=True,
                               local_pid=None)

    def write(book, path):
        found.writes.append((path.rsplit("/")[-1], sum(bool(c.get("outputs")) for c in book.cells)))
        wrote(book, path)

    wrote = papermill.engines.write_ipynb
    found = SimpleNamespace(runs=folder / "runs", latest=folder / "runs" / "latest", stops=stops,
                            writes=[])
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out):
        forked = kernels.forked
        fake(patch, folder, settings)(
            ("01_data", "print('  by ' + sys.executable)",
             "print('  run ' + config.load().labels['run_id'])",
             "print('not for the terminal')\nprint('  online store: 20 s, state UPDATING')",
             "import filelock, pathlib\ntry:\n"
             "    filelock.FileLock(pathlib.Path(run_dir).parent / '.lock').acquire(0)\n"
             "except filelock.Timeout:\n    print('  it is held')", "run.finish()"),
            ("02_features", "run.finish(predictions=[\n"
             "    {'customer_id': c, 'churn_probability': p}\n"
             "    for c, p in [('7', .91), ('8', .85), ('9', .96)]])"))
        patch.setattr(kernels, "forked", lambda work, *given: (
            {} if work is run.check else forked(work, *given)))
        patch.setattr(cloud, "connect", connect)
        patch.setattr(cloud, "stop_local", lambda: stops.append(1))
        patch.setattr(papermill.engines, "write_ipynb", write)
        patch.setenv("JUPYTER_PATH", str(folder / "jupyter"))
        assert run.main([]) == 0
    found.out = out.getvalue()
    return found


def test_a_run_leaves_notebooks_log_summary_and_latest(finished):
    assert sorted(p.name for p in finished.latest.iterdir()) == [
        "01_data.ipynb", "02_features.ipynb", "report.html", "run.log", "slides.html",
        "summary.json", "요약.md"]
    summary = json.loads((finished.latest / "summary.json").read_text())
    assert [s["name"] for s in summary["stages"]] == ["01_data", "02_features"]
    assert "[2/2] 02_features: done in" in finished.out


def test_notebooks_run_in_this_python_whatever_kernels_jupyter_finds(finished):
    assert f"  by {sys.executable}\n" in finished.out


def test_a_notebook_is_written_when_a_cell_of_code_has_run_and_not_more_often(finished):
    """A killed run leaves the cells that ran. At the start, after each of 8 cells, at the end."""
    written = [outputs for name, outputs in finished.writes if name == "01_data.ipynb"]
    assert written == [0, 0, 0, 0, 1, 2, 3, 4, 5, 5]


def test_the_lines_of_a_long_wait_are_shown_while_it_lasts(finished):
    assert "  online store: 20 s, state UPDATING" in finished.out
    assert "not for the terminal" not in finished.out


def test_a_run_labels_what_it_makes_with_its_own_name(finished):
    assert f"  run {finished.latest.resolve().name}\n" in finished.out


def test_the_lock_is_held_while_notebooks_run(finished):
    assert "  it is held" in finished.out


def test_the_end_names_the_report_first(finished):
    *_, customers, end, report, slides, figures = finished.out.splitlines()
    assert customers == ("customer 8: churn probability 0.850, the lowest of 3; "
                         "customer 9: 0.960, the highest")
    assert re.fullmatch(r"finished in \d+ s", end)
    assert [report, slides, figures] == [
        f"{name}: {finished.latest.resolve()}/{name}"
        for name in ("report.html", "slides.html", "summary.json")]


def test_a_line_is_printed_before_anything_that_takes_time(finished):
    assert "run 2" in finished.before


def test_keep_running_leaves_the_local_cloud_running_and_says_what_to_do(
        finished, without_kernels, monkeypatch, capsys):
    parts = (".venv/bin/python -m jupyterlab notebooks", ".venv/bin/python -m lib.localcloud stop")
    assert finished.stops == [1] and not [part for part in parts if part in finished.out]
    monkeypatch.setattr(cloud, "connect", lambda settings, *_: SimpleNamespace(
        settings=settings, note="local cloud started", started_local=True, local_pid=None))
    monkeypatch.setattr(cloud, "stop_local", lambda: pytest.fail("stopped"))
    without_kernels(("01_data", "run.finish()"))
    assert run.main(["--keep-running"]) == 0
    said = capsys.readouterr().out
    assert [part for part in parts if part not in said] == []


def set_up(runs, run_dir="", **variables):
    """What the set-up cell of a notebook does, by hand if there is no `run_dir`."""
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(io.StringIO()) as said:
        patch.setattr(config, "RUNS", runs)
        for name in (config.CONFIG_VARIABLE, config.SETTINGS_VARIABLE):
            patch.setenv(name, "")  # is put back after this
            patch.delenv(name)
        for name, value in variables.items():
            patch.setenv(name, value)
        settings = config.load(target=None, env=None, run_dir=run_dir)
        print(settings.source, settings.app, settings.options, sep="|")
    return said.getvalue()


def test_a_notebook_opened_by_hand_goes_on_with_the_options_of_the_last_run(
        without_kernels, tmp_path, monkeypatch):
    for name in (config.CONFIG_VARIABLE, config.SETTINGS_VARIABLE):
        monkeypatch.setenv(name, "")  # is put back after the test
        monkeypatch.delenv(name)
    export = tmp_path / "my export"
    export.mkdir()
    mine = tmp_path / "mine.yaml"
    mine.write_text((ROOT / "config.yaml").read_text().replace("app: churn", "app: mychurn"))
    without_kernels(("01_data", "run.finish()"))
    runs = tmp_path / "runs"
    built_in = set_up(runs)
    assert built_in.startswith("bigquery-public-data.")  # no run yet

    assert run.main(["--source", str(export), "--config", str(mine), "--lang", "ko"]) == 0
    said, settings = set_up(runs).splitlines()
    assert settings == (f"{export}|mychurn|--target local --env dev --config {mine} "
                        f"--source '{export}'")
    for part in (f"--source '{export}'", f"--config {mine}", "--lang ko", "CHURN_DEMO_SET={}"):
        assert part in said
    # What is chosen in another way is not replaced: by a run's own options, or the environment.
    assert set_up(runs, str(runs / "other")) == built_in
    assert set_up(runs, CHURN_DEMO_SET="{}") == built_in

    for name in (config.CONFIG_VARIABLE, config.SETTINGS_VARIABLE):
        monkeypatch.delenv(name)
    (runs / "latest").resolve().rename(runs / "earlier")  # two of one second have one folder
    assert run.main([]) == 0  # the last run has none
    assert set_up(runs) == built_in


def test_from_and_only_choose_notebooks(without_kernels, capsys):
    without_kernels(*[(f"0{n}_x", "run.finish()") for n in (1, 2, 3)])
    assert run.main(["--from", "02"]) == 0
    assert "01_x" not in capsys.readouterr().out
    assert run.main(["--only", "02"]) == 0
    out = capsys.readouterr().out
    assert "02_x" in out and "03_x" not in out


def test_a_failing_stage_ends_the_run_and_says_what_is_needed(fake_notebooks, tmp_path, capsys):
    fake_notebooks(
        ("01_data", "from lib.errors import Needed\ndef work():\n"
         "    raise Needed('the table is gone', 'that table', 'bq mk it')\n"
         "run.step('load', work)"),
        ("02_features", "run.finish()"))
    assert run.main([]) == 1
    out = capsys.readouterr().out
    for part in ("stage:     01_data", "attempted: load", "the table is gone", "bq mk it"):
        assert part in out
    assert "Traceback" not in out and "02_features" not in out
    summary = json.loads((tmp_path / "runs/latest/summary.json").read_text())
    assert summary["stages"][0]["status"] == "failed"


def test_a_bug_shows_its_traceback_and_ends_the_run(fake_notebooks, capsys):
    fake_notebooks(("01_data", "1 / 0"))
    assert run.main([]) == 1
    assert "ZeroDivisionError" in capsys.readouterr().out


@pytest.mark.parametrize(("code", "cause", "need"), [
    ("from lib.errors import Needed\nraise Needed('no customer fits', 'more orders', 'mend it')",
     "cause:     no customer fits", ("needed:    more orders", "command:   mend it")),
    ("from lib.source import SourceError\nraise SourceError('exports', ['orders.csv is empty'])",
     "cause:     The export in exports cannot be used: 1 problem. (1) orders.csv is empty",
     ("needed:    a folder with one file each",)),
    ("from google.api_core.exceptions import Forbidden\n"
     "raise Forbidden(\"Permission 'bigquery.tables.getData' denied on x\")",
     "cause:     403 Permission 'bigquery.tables.getData'", ("add-iam-policy-binding",)),
    ("from google.auth.exceptions import RefreshError\nraise RefreshError('expired', {'a': 1})",
     "cause:     ('expired', {'a': 1})", ("gcloud auth application-default login",)),
    ("import requests\nrequests.get('http://127.0.0.1:1', timeout=1)", "cause:     ",
     ("needed:    a network", "--from 03")),
], ids=["Needed", "SourceError", "Google", "credentials", "network"])
def test_an_error_with_a_known_remedy_names_it_in_any_cell(
        fake_notebooks, tmp_path, capsys, code, cause, need):
    """Also outside run.step."""
    fake_notebooks(("03_training_set", code), ("04_feature_store", "run.finish()"))
    assert run.main([]) == 1
    out = capsys.readouterr().out
    for part in ("stage:     03_training_set", "attempted: cell 4", cause, *need):
        assert part in out
    assert "Traceback" not in out and "a fix in the code" not in out
    assert "04_feature_store" not in out
    summary = json.loads((tmp_path / "runs/latest/summary.json").read_text())
    assert summary["stages"][0]["status"] == "failed"


def test_an_error_after_the_end_of_a_stage_leaves_it_done(fake_notebooks, tmp_path, capsys):
    """As when a presenter mistypes in a cell below run.finish()."""
    fake_notebooks(("03_training_set", "run.finish()",
                    "from lib.errors import Needed\nraise Needed('oops', 'no typing')"))
    assert run.main([]) == 1
    summary = json.loads((tmp_path / "runs/latest/summary.json").read_text())
    assert summary["stages"][0]["status"] == "done"


def test_where_things_are_billed_the_end_says_what_is_still_running(
        without_kernels, monkeypatch, capsys):
    load = config.load

    def billed(**options):
        settings = load(**options)
        changed = settings.target_settings.model_copy(update={"billed": True})
        return settings.model_copy(update={"targets": {settings.target: changed}})

    without_kernels(("01_data", "from lib.errors import Needed\nraise Needed('no', 'more')"))
    monkeypatch.setattr(config, "load", billed)
    monkeypatch.setattr(teardown, "still_billed", lambda cloud: [f"still running: {cloud.note}"])
    assert run.main([]) == 1  # also after a run that failed
    assert "still running: no cloud" in capsys.readouterr().out


class Terminal(io.StringIO):
    """A terminal without a cursor beyond the carriage return."""

    def isatty(self):
        return True

    def rows(self):
        """What it shows."""
        shown, column = [""], 0
        for text in re.findall(r"\r|\n|[^\r\n]+", self.getvalue()):
            if text == "\n":
                shown.append("")
            elif text != "\r":
                shown[-1] = shown[-1][:column] + text + shown[-1][column + len(text):]
            column = 0 if text in "\r\n" else column + len(text)
        return [row.rstrip() for row in shown]


def test_lines_of_components_do_not_break_the_progress_bar(fake_notebooks, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setattr(sys, "stderr", terminal)
    fake_notebooks(("01_data", "print('  data_load: succeeded\\n  train: succeeded')",
                    "run.finish()"))
    assert run.main([]) == 0
    assert "cell" in terminal.getvalue()  # the bar was drawn
    rows = terminal.rows()
    at = rows.index("  data_load: succeeded")
    assert rows[at + 1] == "  train: succeeded"
    assert rows[at + 2].startswith("[1/1] 01_data: done in")
    assert not [row for row in rows if "cell" in row]  # and no trace of it is left


# What dies or hangs while a notebook runs

OWNER = """
import pathlib, sys, time
from lib.localcloud import process
process.own(pathlib.Path(sys.argv[1]))
print("owns", flush=True)
time.sleep(600)
"""
WORK = """
import os, time
print(f"  kernel {os.getpid()}", flush=True)
try:
    while True:  # as a client that retries whatever fails
        try:
            time.sleep(0.1)
        except Exception:
            pass
finally:
    print("  ended", flush=True)
"""


@pytest.fixture
def owner(tmp_path, monkeypatch, settings):
    """A process that owns a state's folder as the local cloud does, and answers nothing; a run
    takes it for its local cloud."""
    state = tmp_path / "state"
    child = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(state)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "owns\n"
    monkeypatch.setattr(localcloud, "wait_for_loss", partial(process.wait_for_loss, state=state))
    monkeypatch.setattr(cloud, "connect", lambda settings, *_: SimpleNamespace(
        settings=settings, note="a local cloud", started_local=False, local_pid=child.pid))
    monkeypatch.setattr(process, "WATCH_SECONDS", 0.05)
    yield child
    child.kill()
    child.wait()
    child.stdout.close()


def when_a_cell_runs(folder, act):
    """Calls `act(pid of the kernel)` from a thread, once the notebook has printed it."""
    def wait():
        log = folder / "runs" / "latest" / "run.log"
        while not (found := re.search(r"^  kernel (\d+)$", log.exists() and log.read_text() or "",
                                      re.M)):
            time.sleep(0.05)
        act(int(found[1]))

    threading.Thread(target=wait, daemon=True).start()


def check_failed(folder, out, *said):
    for part in ("stage:     02_features", "attempted: running the notebook", *said):
        assert part in out
    assert "Traceback" not in out
    (stage,) = json.loads((folder / "runs/latest/summary.json").read_text())["stages"]
    assert (stage["name"], stage["status"]) == ("02_features", "failed")


def test_a_local_cloud_that_dies_ends_the_run_and_its_notebook(
        fake_notebooks, owner, tmp_path, capfd):
    fake_notebooks(("02_features", WORK))
    when_a_cell_runs(tmp_path, lambda kernel: owner.kill())
    assert run.main([]) == 1
    out = capfd.readouterr().out
    check_failed(tmp_path, out, "cause:     the local cloud has stopped", "command:   ./run_all.sh")
    kernel = int(re.search(r"  kernel (\d+)", out)[1])
    assert process.ended(kernel)


def test_a_suspended_local_cloud_ends_the_run_after_a_while(
        fake_notebooks, owner, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(process, "PING_SECONDS", 0.1)
    monkeypatch.setattr(process, "SILENT_SECONDS", 0.3)
    fake_notebooks(("02_features", WORK))
    begin = threading.Event()
    silent = process.status
    # It answers until the cell runs.
    monkeypatch.setattr(process, "status",
                        lambda state: silent(state) if begin.is_set() else {"pid": owner.pid})
    when_a_cell_runs(tmp_path, lambda kernel: begin.set())
    assert run.main([]) == 1
    check_failed(tmp_path, capfd.readouterr().out,
                 f"cause:     the local cloud is running, pid {owner.pid}, but does not answer",
                 "command:   .venv/bin/python -m lib.localcloud stop")


def test_a_notebook_whose_process_dies_ends_the_run_with_its_name(fake_notebooks, tmp_path, capfd):
    fake_notebooks(("02_features", WORK))
    when_a_cell_runs(tmp_path, lambda kernel: os.kill(kernel, signal.SIGKILL))
    assert run.main([]) == 1
    check_failed(tmp_path, capfd.readouterr().out, "cause:     its Python process has ended",
                 "command:   ./run_all.sh --target local --env dev --from 02")


def test_a_notebook_whose_process_dies_while_it_starts_ends_the_run_with_its_name(
        fake_notebooks, monkeypatch, tmp_path, capfd):
    wait = kernels.Client.wait_for_ready

    async def killed(self, *arguments, **options):
        (kernel,) = multiprocessing.active_children()
        kernel.kill()
        return await wait(self, *arguments, **options)

    monkeypatch.setattr(kernels.Client, "wait_for_ready", killed)
    fake_notebooks(("02_features", WORK))
    assert run.main([]) == 1
    out = capfd.readouterr().out
    for part in ("stage:     02_features", "cause:     its Python process has ended",
                 "command:   ./run_all.sh --target local --env dev --from 02"):
        assert part in out
    assert "Traceback" not in out


def test_a_preflight_whose_process_dies_ends_the_run(fake_notebooks, monkeypatch, capfd):
    def killed(*_):
        raise BrokenProcessPool

    monkeypatch.setattr(kernels, "forked", killed)
    fake_notebooks()
    assert run.main([]) == 1
    out = capfd.readouterr().out
    for part in ("stage:     00_preflight", "cause:     its Python process has ended",
                 "command:   ./run_all.sh --target local --env dev"):
        assert part in out
    assert "Traceback" not in out


@pytest.fixture
def ctrl_c():
    """Ctrl-C as in a terminal: a background job of a script ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_ends_the_run_and_its_notebook_with_status_130(
        fake_notebooks, ctrl_c, tmp_path, capfd):
    fake_notebooks(("02_features", WORK))
    when_a_cell_runs(tmp_path, lambda kernel: os.kill(os.getpid(), signal.SIGINT))
    assert run.main([]) == 130
    out = capfd.readouterr().out
    assert "start the run again to continue" in out and "Traceback" not in out
    assert process.ended(int(re.search(r"  kernel (\d+)", out)[1]))
    (stage,) = json.loads((tmp_path / "runs/latest/summary.json").read_text())["stages"]
    assert stage["status"] == "failed"


def test_a_kernel_that_was_starting_when_the_run_was_stopped_ends_too(
        fake_notebooks, monkeypatch, capfd):
    async def stopped(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(kernels.Client, "wait_for_ready", stopped)
    fake_notebooks(("02_features", "run.finish()"))
    assert run.main([]) == 130
    left = multiprocessing.active_children()
    for kernel in left:  # else the tests do not end
        kernel.kill()
    assert left == []


# Two runs, a full disk, folders that cannot be written


def test_a_second_run_is_refused_while_the_first_goes_on(without_kernels, tmp_path, capsys):
    without_kernels(("01_data", "run.finish()"))
    runs = tmp_path / "runs"
    assert run.main([]) == 0
    before = sorted(p.name for p in runs.iterdir())
    capsys.readouterr()
    with filelock.FileLock(runs / ".lock"):  # the run above has left its name in it
        assert run.main([]) == 1
    said = capsys.readouterr()
    for part in (f"another run is going on here: {(runs / 'latest').resolve()}", "needed: ",
                 f"command:   tail -f {runs}/latest/run.log"):
        assert part in said.err
    assert not said.out and sorted(p.name for p in runs.iterdir()) == before
    assert run.main([]) == 0


@pytest.mark.parametrize(("first", "second", "words"), [
    ("refresh", run, []), ("latest", refresh, []), ("latest", teardown, ["--yes"]),
    ("latest", schedule, ["run"])])
def test_a_command_that_writes_the_tables_is_refused_beside_another(
        monkeypatch, tmp_path, capsys, first, second, words):
    monkeypatch.setattr(stages, "RUNS", tmp_path)
    for module in (refresh, teardown, schedule):
        name = "connected" if module is teardown else "connect"
        monkeypatch.setattr(module, name, lambda _: pytest.fail("it goes on"))
    (tmp_path / first).mkdir()
    with stages.alone(first):
        assert second.main(words) == 1
    said = capsys.readouterr().err
    assert f"another run is going on here: {tmp_path / first}" in said
    assert f"command:   tail -f {tmp_path / first}/run.log" in said


@pytest.mark.parametrize("second", [run, refresh])
def test_a_run_and_a_refresh_are_refused_beside_a_teardown(monkeypatch, tmp_path, capsys, second):
    monkeypatch.setattr(stages, "RUNS", tmp_path)
    monkeypatch.setattr(refresh, "connect", lambda _: pytest.fail("it goes on"))
    with stages.alone(teardown.MODULE):
        assert second.main([]) == 1
    said = capsys.readouterr().err
    assert "another command is going on here: lib.operate.teardown" in said
    assert "needed:    its end, or Ctrl-C where it runs" in said and "tail" not in said


def test_a_teardown_that_only_lists_waits_for_nobody(monkeypatch, tmp_path):
    monkeypatch.setattr(stages, "RUNS", tmp_path)
    monkeypatch.setattr(teardown, "connected", lambda _: nullcontext())
    monkeypatch.setattr(teardown, "run", lambda _, delete: 0 if not delete else 1)
    with stages.alone("latest"):
        assert teardown.main([]) == 0


def full(*_, **__):
    raise OSError(28, "No space left on device")


@contextmanager
def no_space(where, patch):
    """As on a full disk, after the run has begun."""
    if where == "a step":
        yield ("01_data", "def full(): raise OSError(28, 'No space left on device')\n"
               "run.step('load', full)")
    elif where == "a notebook":
        def fills(*_, **__):
            patch.setattr(stages, "write_summary", full)
            full()

        patch.setattr(papermill, "execute_notebook", fills)
        yield ("01_data", "run.finish()")
    else:  # summary.json and run.log, in the notebook
        yield ("01_data", "def full(*_): raise OSError(28, 'No space left on device')\n"
               "stages.write_summary = full\nrun.step('load', lambda: stages.Outcome('done'))")


@pytest.mark.parametrize("where", ["a step", "a notebook", "summary.json"])
def test_a_full_disk_is_named_wherever_it_is_met(fake_notebooks, monkeypatch, capsys, where):
    with no_space(where, monkeypatch) as book:
        fake_notebooks(book)
        assert run.main([]) == 1
    said = capsys.readouterr()
    out = said.out + said.err
    assert "cause:     [Errno 28] No space left on device" in out
    assert "free space on the disk" in out and "command:   ./run_all.sh" in out
    assert "Traceback" not in out


@pytest.mark.parametrize("variable", ["CHURN_DEMO_RUNS", "LOCALCLOUD_STATE", "HOME"])
def test_a_folder_that_cannot_be_written_is_named(tmp_path, variable):
    """A file in its place: root may write any folder."""
    file = tmp_path / "file"
    file.touch()
    done = command(**{"CHURN_DEMO_RUNS": str(tmp_path / "runs"),
                      "LOCALCLOUD_STATE": str(tmp_path / "state"), variable: str(file)})
    said = done.stdout + done.stderr
    assert done.returncode == 1 and "Traceback" not in said
    for part in ("stage: ", str(file), "needed: ", "command: "):
        assert part in said


def test_a_full_disk_is_named_before_the_local_cloud_starts(tmp_path, monkeypatch):
    monkeypatch.setattr(process.shutil, "disk_usage", lambda _: SimpleNamespace(free=7_654_321))
    with pytest.raises(process.LocalCloudError, match="is full: 7 MB are free") as caught:
        process.start("p", None, {}, state=tmp_path)
    assert caught.value.command == f"df -h {tmp_path}" and "reset" not in caught.value.need


def test_run_all_uses_utf_8_whatever_the_locale(tmp_path):
    """In a folder with Korean letters, files were named and written in the locale's encoding."""
    root = tmp_path / "내 문서"
    (root / "scripts").mkdir(parents=True)
    (root / "lib" / "operate").mkdir(parents=True)
    (root / "run_all.sh").write_bytes((ROOT / "run_all.sh").read_bytes())
    (root / "scripts" / "setup.sh").write_text("#!/bin/sh\n")
    (root / "scripts" / "setup.sh").chmod(0o755)
    (root / ".venv").symlink_to(sys.prefix)
    (root / "lib" / "operate" / "run.py").write_text(
        "import os\nprint(os.getcwd().encode('utf-8').decode('utf-8'), open(__file__).encoding)\n")
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(["bash", "run_all.sh"], cwd=root, capture_output=True, timeout=60,
                          env={**os.environ, **ascii_only})
    assert done.stdout.decode("utf-8") == f"{root} utf-8\n", done.stderr


def test_run_all_prints_a_line_before_it_checks_the_installation(tmp_path):
    (tmp_path / "scripts").mkdir()
    (tmp_path / "run_all.sh").write_bytes((ROOT / "run_all.sh").read_bytes())
    (tmp_path / "scripts" / "setup.sh").write_text("#!/bin/sh\necho set-up >&2\nexit 3\n")
    (tmp_path / "scripts" / "setup.sh").chmod(0o755)
    done = subprocess.run(["bash", "run_all.sh"], cwd=tmp_path, capture_output=True, text=True,
                          timeout=60)
    assert done.returncode == 3
    assert done.stderr == "checking the installation and loading packages\nset-up\n"
