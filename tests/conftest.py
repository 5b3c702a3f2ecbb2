"""A local cloud of the tests' own: another state folder, a small theLook."""

import gc
import itertools
import os
import shutil
import tempfile
import warnings
from pathlib import Path

import hypothesis
import pytest
from xdist.scheduler import LoadScopeScheduling

# A usual run draws the same examples each time, so that a failure is one of the change that is
# tested; `--hypothesis-profile=thorough` draws other ones, and 20 times as many.
hypothesis.settings.register_profile("usual", derandomize=True)
hypothesis.settings.register_profile("thorough", max_examples=2000, derandomize=False)
hypothesis.settings.load_profile("usual")
ROOT = Path(__file__).resolve().parents[1]
gc.disable()  # until pytest_collection_finish

# A local cloud waits for the disk after each statement, often longer than it computes: where memory
# can be used as a disk (Linux), all temporary folders are there, also those of child processes.
MEMORY = Path("/dev/shm")
if MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > 4e9:
    tempfile.tempdir = os.environ["TMPDIR"] = str(MEMORY)

_STATE = tempfile.TemporaryDirectory(prefix="localcloud-test-", ignore_cleanup_errors=True)
os.environ["LOCALCLOUD_STATE"] = _STATE.name  # before anything imports lib.localcloud
_RUNS = tempfile.TemporaryDirectory(prefix="runs-test-", ignore_cleanup_errors=True)
os.environ["CHURN_DEMO_RUNS"] = _RUNS.name  # before anything imports lib.config

from lib.localcloud.loopback import no_proxy  # noqa: E402
from tests.support import warm  # noqa: E402

os.environ.update(no_proxy())  # for the requests that tests make themselves
warm.use()

SMALL = {"thelook": {"users": 3000},
         "waits": {"first_pause_seconds": 0.02, "longest_pause_seconds": 0.2}}
# With several workers (scripts/test.sh) these files come first, so that none is left at the end.
LONG = ("notebooks/test_outputs.py", "proof/", "operate/test_kill_and_resume.py",
        "operate/test_teardown.py", "contract/test_wire.py", "test_strange_answers.py",
        "training/test_training.py", "test_flow.py", "test_refresh.py", "test_features.py",
        "contract/test_failures.py", "scripts/test_build_push.py")


def pytest_collection_finish():
    """The modules of all tests are imported, and stay: no search for garbage goes through them."""
    gc.freeze()
    gc.enable()


def pytest_collection_modifyitems(items):
    """The long files first."""
    def place(item):
        file = item.path.relative_to(ROOT / "tests").as_posix()
        return next((n for n, name in enumerate(LONG) if file.startswith(name)), len(LONG))

    items.sort(key=place)


class ByFile(LoadScopeScheduling):
    """A worker takes a whole file, whose tests share a local cloud or build on each other; and all
    of tests/proof, whose files share what is built, served and trained."""

    def _split_scope(self, nodeid):
        file = nodeid.partition("::")[0]
        return "tests/proof" if file.startswith("tests/proof/") else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes():
    """One process forks the local clouds of all workers."""
    warm.start()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    return ByFile(config, log)


@pytest.fixture(autouse=True)
def restored_variables():
    """Options that a command hands on to child processes (CHURN_...) end with their test."""
    def ours():
        return {name: value for name, value in os.environ.items() if name.startswith("CHURN_")}

    before = ours()
    yield
    for name in ours().keys() - before.keys():
        del os.environ[name]
    os.environ.update(before)


@pytest.fixture(autouse=True, scope="module")
def collected():
    """Processes that a file's tests have ended leave pipes in circles of references: they are
    closed here, and not in the middle of another file's test, which would fail for it."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
    gc.freeze()  # what is left stays: the next search does not go through it


@pytest.fixture(scope="session")
def settings():
    """config.yaml with 3,000 users of theLook."""
    from lib import config

    return config.load(target="local", env="dev", overrides=SMALL)


@pytest.fixture(scope="session")
def local_cloud():
    """Stops the local cloud after the last test."""
    from lib.cloud import stop_local

    yield
    stop_local()


@pytest.fixture(scope="module")
def cloud(settings, local_cloud):
    """Google's clients for the running local cloud. Each file of tests connects by itself, so that
    it may stop the local cloud."""
    from lib.cloud import connect

    return connect(settings)


@pytest.fixture(scope="session")
def google():
    """Google's SQL analyzer and reference engine."""
    from tests.sql.googlesql import GoogleSql

    return GoogleSql()


@pytest.fixture
def trials(record_property):
    """Call it once for each trial inside a test, such as each request that hypothesis draws; the
    table of tests/README.md counts them."""
    count = itertools.count()
    yield lambda: next(count)
    record_property("trials", next(count))
