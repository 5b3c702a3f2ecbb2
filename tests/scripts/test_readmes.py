"""The READMEs: their generated parts, commands, options, links and names are up to date."""

import ast
import functools
import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from lib.config import ROOT
from scripts import readmes
from tests.support import forked

FILES = sorted(ROOT.glob("*.md")) + sorted(
    path for path in (ROOT / "lib").rglob("*.md") if not path.parent.name.startswith("."))
TEXTS = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in FILES}
UNRUNNABLE = re.compile(r"^# not runnable here \(needs .+\)$", re.M)

PYTHON = ".venv/bin/python"
IN_COMPONENT = f"../../../{PYTHON} src/main.py"
# Each command of a README's bash block is run by a test (file::function), or by
# test_a_cheap_command_runs with other words, or its block begins with the line
# "# not runnable here (needs ...)".
RUN_BY = {
    "./run_all.sh":
        "tests/operate/test_run.py::test_a_run_leaves_notebooks_log_summary_and_latest",
    "./run_all.sh --keep-running":
        "tests/operate/test_run.py::test_keep_running_leaves_the_local_cloud_running_and_says_what_to_do",
    f"{PYTHON} -m lib.predict --customer_id 39947":
        "tests/test_flow.py::test_predict_is_a_command",
    f"{PYTHON} -m lib.operate.preflight":
        "tests/operate/test_preflight.py::test_it_is_a_command_with_a_status",
    f"{PYTHON} -m lib.training.compile":
        "tests/training/test_compile.py::test_compiling_needs_no_cloud_and_no_engine",
    f"{PYTHON} -m lib.training.pipeline_job":
        "tests/training/test_training.py::test_the_command_exits_non_zero_and_names_the_step",
    f"{PYTHON} -m scripts.execute_notebooks":
        "tests/notebooks/test_notebooks.py::test_the_command_that_executes_them",
    ".venv/bin/lint-imports":
        "tests/test_layers.py::test_imports_follow_the_layers_of_pyproject",
    "scripts/new_component.sh my_step":
        "tests/scripts/test_build_push.py::test_new_component_works_at_once",
    f"{IN_COMPONENT} --table my-project.churn_dev.train_dataset --label_col label_churn_60d "
    "--time_col label_timestamp --id_col customer_id --feature_cols orders_30d,tenure_days "
    "--gap_days 60 --output_dataset /tmp/dataset":
        "tests/components/test_data_load.py::test_program_splits_a_table",
    f"{IN_COMPONENT} --input_dataset /tmp/dataset --output_model /tmp/model --model_type "
    "random_forest --label_col label_churn_60d --feature_cols orders_30d,tenure_days":
        "tests/components/test_train.py::test_program_gives_the_same_bytes_twice",
    f"{IN_COMPONENT} --input_dataset /tmp/dataset --input_model /tmp/model --label_col "
    "label_churn_60d --output_metrics /tmp/metrics.json --output_curves /tmp/curves.json":
        "tests/components/test_eval.py::test_figures_match_their_definitions",
    "AIP_STORAGE_URI=/tmp/model ../../.venv/bin/python src/main.py":
        "tests/serving/test_serving.py::test_routes_and_port_of_vertex_and_a_clean_end",
    "curl -X POST localhost:8080/predict -H 'Content-Type: application/json' "
    """-d '{"instances": [{"orders_30d": 1, "tenure_days": null}]}'""":
        "tests/serving/test_serving.py::test_predictions_are_those_of_the_model",
}
CHEAP = {
    "scripts/test.sh": "bash -n scripts/test.sh",
    f"{PYTHON} -m jupyterlab notebooks": f"{PYTHON} -m jupyterlab --version",
    f"{PYTHON} -m lib.localcloud start": f"{PYTHON} -m lib.localcloud start --help",
    f"{PYTHON} -m lib.localcloud status": f"{PYTHON} -m lib.localcloud status --help",
    f"{PYTHON} -m lib.localcloud stop": f"{PYTHON} -m lib.localcloud stop",
    f"{PYTHON} -m lib.localcloud reset": f"{PYTHON} -m lib.localcloud reset",
    f"{PYTHON} -m scripts.bench join build sync": f"{PYTHON} -m scripts.bench --help",
    f"{PYTHON} -m scripts.bench serve": f"{PYTHON} -m scripts.bench --help",
    f"{PYTHON} -m scripts.bench runs": f"{PYTHON} -m scripts.bench --help",
    f"{PYTHON} -m scripts.readmes --run runs/latest": f"{PYTHON} -m scripts.readmes --help",
}


@dataclass(frozen=True)
class Command:
    """One command of a README. runnable: its block is not marked as "not runnable here"."""

    readme: str
    text: str
    runnable: bool = True

    @property
    def program(self):
        """The words that start a program of this repository; () for another program."""
        words = [word for word in self.text.split() if not re.match(r"[A-Z_]+=", word)]
        if words[0] == "./run_all.sh":  # the script itself would install first
            return (PYTHON, "-m", "lib.operate.run")
        if words[0].startswith("scripts/") and words[0].endswith(".sh"):
            return (words[0],)
        if words[0].endswith(f"/{PYTHON}") and words[1] == "src/main.py":
            return (PYTHON, str(Path(self.readme).parent / "src" / "main.py"))
        if words[1:2] == ["-m"] and words[2].startswith(("lib.", "scripts.")):
            return (PYTHON, *words[1:4 if words[2] == "lib.localcloud" else 3])
        return ()


def commands():
    """Each command in a bash block; a line that ends in a backslash goes on in the next."""
    for readme, text in TEXTS.items():
        for block in re.findall(r"^ *```bash\n(.*?)^ *```", text, re.M | re.S):
            lines = block.replace("\\\n", " ").splitlines()
            for line in lines:
                command = re.sub(r"(^|\s+)#.*", "", line)
                if command:
                    yield Command(readme, " ".join(command.split()), not UNRUNNABLE.search(block))


def inline_commands():
    """Commands of this repository in the running text, `...`, with options."""
    for readme, text in TEXTS.items():
        for found in re.findall(r"`([^`\n|]+ --[^`\n|]+)`", text):
            yield Command(readme, found)


COMMANDS = list(commands())
WITH_PROGRAM = [command for command in [*COMMANDS, *inline_commands()] if command.program]


# -- generated parts -------------------------------------------------------------------------


def test_generated_parts_are_those_that_the_generator_gives():
    done = subprocess.run([sys.executable, "-m", "cogapp", "--check", "--diff", *readmes.READMES],
                          cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout}\n.venv/bin/python -m scripts.readmes renews them"
    with_cog = [name for name, text in TEXTS.items() if "[[[cog" in text]
    assert sorted(with_cog) == sorted(readmes.READMES)


@pytest.mark.parametrize("name", readmes.PICTURES)
def test_pictures_are_those_of_the_committed_notebooks(name):
    assert (ROOT / "notebooks" / "images" / name).read_bytes() == readmes.picture(name)


def test_the_sample_has_the_figures_of_the_committed_notebooks():
    sample = json.loads(readmes.SAMPLE.read_text())
    for stem, figures in {
        "03_training_set": [f"{sample['labels']['rows']:,}"],
        "05_train": [f"{sample['metrics']['roc_auc']:.3f}",
                     f"{sample['leakage']['orders']['promised']['value']:.0f} orders"],
        "07_online_predict": [f"{sample['freshness']['mismatches_before']} of"],
    }.items():
        notebook = (ROOT / "notebooks" / f"{stem}.ipynb").read_text(encoding="utf-8")
        assert [figure for figure in figures if figure not in notebook] == []


def test_a_run_gives_the_sample_six_lines_as_it_printed_them(tmp_path, monkeypatch):
    lines = ["[3/7] 03: started", "[3/7] 03: done", "[5/7] a", "[7/7] b", "customer 1: c",
             "customer 2: d", "finished in 1 s", "report.html: e"]
    (tmp_path / "run.log").write_text("2026-01-01 a_stage customer\n" + "\n".join(lines))
    built = {"figures": {"sql/x.sql": {"a rows": 5, "other": 1}, "sync": {"rows": 4}},
             "steps": [{"name": "sql/x.sql", "seconds": 0.5}, {"name": "sync", "seconds": 2}]}
    (tmp_path / "summary.json").write_text(
        json.dumps({key: {"ladder": 1} for key in readmes.KEPT} | {"stages": [built]}))
    monkeypatch.setattr(readmes, "SAMPLE", tmp_path / "sample.json")
    readmes.take_sample(tmp_path)
    sample = json.loads((tmp_path / "sample.json").read_text())
    assert sample["leakage"] == {} and sample["lines"] == lines[1:5] + lines[6:]
    assert (sample["rows"], sample["served"], sample["sql_seconds"]) == (
        {"a": 5}, 4, {"sql/x.sql": 0.5})


def test_the_reading_path_has_ten_files_of_about_the_stated_length():
    """Within a tenth or ten lines, so that not every change of a file is one of the README."""
    rows = re.findall(r"^\| (\d+) \| `([^`]+)` \| (\d+) \|", TEXTS["lib/README.md"], re.M)
    assert [int(number) for number, _, _ in rows] == list(range(1, 11))
    for _, file, stated in rows:
        lines = len((ROOT / file).read_text(encoding="utf-8").splitlines())
        assert abs(lines - int(stated)) <= max(10, lines / 10), (file, lines)


def test_the_first_page_is_short():
    assert len(TEXTS["README.md"].splitlines()) <= 130


# -- commands --------------------------------------------------------------------------------


def test_every_command_is_run_by_a_test_or_marked_as_not_runnable_here():
    runnable = {command.text for command in COMMANDS if command.runnable}
    assert runnable == RUN_BY.keys() | CHEAP.keys()


def test_every_block_has_a_language_so_that_no_command_is_missed():
    languages = {language for text in TEXTS.values()
                 for language in re.findall(r"^ *```([^\n]*)\n.*?^ *```$", text, re.M | re.S)}
    assert languages <= {"bash", "json", "python", "sql", "text", "yaml"}


def test_the_tests_that_run_a_command_exist():
    for name in RUN_BY.values():
        file, function = name.split("::")
        tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        assert function in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def run(*words):
    """The finished process of a command that succeeds; a module's is a fork."""
    done = (forked.run(*words[2:]) if words[:2] == (PYTHON, "-m") else
            subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=60))
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.parametrize("command", CHEAP)
def test_a_cheap_command_runs(command, tmp_path, monkeypatch):
    monkeypatch.setenv("LOCALCLOUD_STATE", str(tmp_path))
    run(*CHEAP[command].split())


@functools.cache
def help_of(program):
    if program in [("scripts/test.sh",), ("scripts/setup.sh",)]:  # they would install first
        return (ROOT / program[0]).read_text(encoding="utf-8")
    return run(*program, "--help").stdout


@pytest.mark.parametrize("command", WITH_PROGRAM, ids=lambda command: command.text[:60])
def test_every_option_of_a_command_exists(command):
    options = re.findall(r"--[\w-]+", command.text)
    assert [option for option in options if option not in help_of(command.program)] == []


# -- names -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TEXTS)
def test_links_and_paths_lead_somewhere(name):
    text, folder = TEXTS[name], (ROOT / name).parent
    prose = re.sub(r"`[^`\n]*`\s?(?!\])", "", text)  # a pattern in code may look like a link
    links = [link.split("#")[0] for link in re.findall(r"\]\(([^)]+)\)", prose)
             if not link.startswith(("https://", "#"))]
    assert [link for link in links if not (folder / link).exists()] == []
    paths = re.findall(r"`((?:lib|sql|scripts|tests|notebooks|\.github)/[\w./*-]*)`", text)
    assert [path for path in paths if not list(ROOT.glob(path))] == []


def test_every_module_and_room_of_the_library_is_described():
    text = TEXTS["lib/README.md"]
    names = [path.name for path in (ROOT / "lib").glob("*.py") if path.name != "__init__.py"]
    names += [path.parent.name + "/" for path in (ROOT / "lib").glob("*/__init__.py")]
    assert [name for name in names if f"`{name}`" not in text] == []


def test_the_apis_to_enable_are_those_that_a_run_calls():
    (command,) = [command for command in COMMANDS if "gcloud services enable" in command.text]
    apis = set(re.findall(r"\S+\.googleapis\.com", command.text))
    wanted = yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))["apis"]
    assert apis == {*wanted, "cloudbuild.googleapis.com"}
