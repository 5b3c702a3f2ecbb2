"""Checks of preflight: the images are in the registry, or a build of them would succeed."""

import re
from collections.abc import Iterator

from lib import images
from lib.cloud import Cloud
from lib.errors import existing
from lib.operate import accounts, preflight_access
from lib.operate.finding import Finding

# What Cloud Build's account does: read the source, write its log, push. Google's guide to that
# account, from memory, not read again here.
BUILD_ROLE = "roles/cloudbuild.builds.builder"
BUILDERS = {"docker": "docker", "gcloud": "Cloud Build"}  # as images.engine names them


def check(cloud: Cloud) -> Iterator[Finding]:
    """Every image is in the registry, by the digest of lib/images.lock.json; else what would
    stop a build: it runs in the background and fails late."""
    settings = cloud.settings
    if not settings.target_settings.pinned_images:
        yield Finding("ok", "run from their folders: nothing to build")
        return
    repository, wanted = settings.serve.image_repository, images.names()
    digests = images.read_lock().get(repository, {})
    unpinned = [image for image in wanted if image not in digests]
    engine = images.engine(settings)
    command = " ".join(images.build_command(settings, engine))
    google = re.fullmatch(r"([^/]+)-docker\.pkg\.dev/([^/]+)/([^/]+)", repository)
    if not google:
        if unpinned:
            yield from _build(cloud, engine, command, unpinned)
        else:
            yield Finding("warning", f"{repository} is not in Artifact Registry: not checked",
                          "the images there, by the digests of lib/images.lock.json", command)
        return
    location, project, folder = google.groups()
    parent = f"projects/{project}/locations/{location}/repositories/{folder}"
    if existing(cloud.artifacts.get_repository, name=parent) is None:
        yield Finding("blocker", f"there is no repository {repository}", "a repository for images",
                      f"gcloud artifacts repositories create {folder} --repository-format docker "
                      f"--location {location} --project {project}")
        yield from _build(cloud, engine, command, unpinned)
        return
    gone = [image for image, digest in digests.items()
            if image in wanted and not _in_registry(cloud, parent, image, digest)]
    if gone:  # the run builds what is not pinned, and does not check what is
        yield Finding(
            "blocker", f"in lib/images.lock.json, but not in {repository}: {', '.join(gone)}",
            "these images, and their new digests in the lock", command)
    if gone or unpinned:
        yield from _build(cloud, engine, command, unpinned)
    else:
        yield Finding("ok", f"all {len(wanted)} in {repository}, by digest")


def _build(cloud: Cloud, engine: str, command: str, unpinned: list[str]) -> Iterator[Finding]:
    """What would stop a build of the images."""
    host = cloud.settings.serve.image_repository.split("/")[0]
    if unpinned:
        yield Finding(
            "warning" if engine else "blocker", f"not built yet: {', '.join(unpinned)}",
            f"nothing: they are built at the start of the run, by {BUILDERS[engine]}" if engine
            else "these images, built where docker runs or gcloud is installed", command)
    if refused := images.source_refused():
        dirty = f"; or {command} --allow-dirty" if "--allow-dirty" in refused.need else ""
        yield Finding("blocker", f"they cannot be built: {refused.cause}", refused.need,
                      refused.command + dirty)
    if engine == "docker" and host.endswith("-docker.pkg.dev") and not images.logged_in(host):
        yield Finding("warning", f"docker's configuration names no credentials for {host}",
                      "docker to log in there with your Google account, to push",
                      f"gcloud auth configure-docker {host}")
    if engine == "gcloud":
        yield preflight_access.agent(cloud, preflight_access.BUILD_API, "Cloud Build starts builds")
        yield _builder(cloud)


def _builder(cloud: Cloud) -> Finding:
    """The account that builds run as has its role. In a new organisation it has none."""
    settings, account = cloud.settings, accounts.compute_account(cloud)
    # The API creates the account, if it does not exist yet.
    command = (f"gcloud services enable {accounts.COMPUTE_API} --project {settings.project} && "
               + accounts.grant(settings, account, BUILD_ROLE))
    known = accounts.roles(cloud)
    runs = f"Cloud Build runs as {account}, unless the project says otherwise"
    if known is None:
        return Finding("warning", f"{runs}; its roles cannot be checked: "
                       + preflight_access.UNREADABLE, f"{BUILD_ROLE} for it", command)
    has = known.get(account, set())
    if has & {*accounts.BASIC, BUILD_ROLE}:
        return Finding("ok", f"{runs}, which has its role")
    if has:  # other roles may be enough together
        return Finding("warning", f"{runs}, which has {', '.join(sorted(has))}",
                       f"{BUILD_ROLE} for it, or roles with the same permissions", command)
    return Finding("blocker", f"{runs}, which does not exist, or has no role",
                   f"{BUILD_ROLE} for it", command)


def _in_registry(cloud: Cloud, parent: str, image: str, digest: str) -> bool:
    name = f"{parent}/dockerImages/{image}@{digest}"
    return existing(cloud.artifacts.get_docker_image, name=name) is not None
