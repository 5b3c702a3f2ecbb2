"""Image references: repository/name@sha256:..., from lib/images.lock.json.

Never a tag and a digest together: Vertex AI refuses that, and a tag can move.
"""

import json

from lib.config import ROOT, Settings
from lib.stages import Needed

LOCK = ROOT / "lib" / "images.lock.json"


def reference(settings: Settings, name: str, required: bool = True) -> str:
    """repository/name@sha256:... of one of our images; without a digest if not `required`.

    Raises:
        Needed: `required`, and the image was not pushed to this repository yet.
    """
    repository = settings.serve.image_repository
    locked = json.loads(LOCK.read_text()) if LOCK.exists() else {}
    digest = locked.get(repository, {}).get(name)
    if digest:
        return f"{repository}/{name}@{digest}"
    if required:
        raise Needed(f"image {repository}/{name} is not in lib/images.lock.json",
                     "the image in the registry, by digest",
                     f"scripts/build_push_all.sh --target {settings.target}")
    return f"{repository}/{name}"
