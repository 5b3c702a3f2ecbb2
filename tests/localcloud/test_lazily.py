"""Parts of a client package are imported without the whole, which is there once it is asked for."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import json, sys
from lib.localcloud.lazily import import_parts_of

name = "google.cloud.resourcemanager_v3"
import_parts_of(name)
from google.cloud.resourcemanager_v3 import types

found = [types.Project.__name__, f"{name}.services.projects" in sys.modules]
from google.cloud import resourcemanager_v3
from google.cloud.resourcemanager_v3.services.projects import ProjectsClient

found += [resourcemanager_v3.ProjectsClient is ProjectsClient, resourcemanager_v3.types is types,
          resourcemanager_v3.Project is types.Project, f"{name}.services.folders" in sys.modules,
          hasattr(resourcemanager_v3, "Missing"), f"{name}.services.folders" in sys.modules]
print(json.dumps(found))
"""


def test_a_package_is_whole_only_once_it_is_asked_for():
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [
        "Project", False, True, True, True, False, False, True]
