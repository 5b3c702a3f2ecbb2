"""The name of the method that a request calls, such as bigquery.jobs.insert."""

import json
import re
from email.parser import BytesParser
from fnmatch import fnmatchcase

from google.cloud import aiplatform_v1, bigquery_storage_v1

from lib.localcloud import rest
from lib.localcloud.vertex.app import GRPC_SERVICE, ROUTES

# Path of a gRPC call -> the method's name, and the type of its request.
READ = "/google.cloud.bigquery.storage.v1.BigQueryRead/"
GRPC = {
    **{READ + rpc: (f"bigquerystorage.{rpc}", getattr(bigquery_storage_v1.types, f"{rpc}Request"))
       for rpc in ("CreateReadSession", "ReadRows", "SplitReadStream")},
    f"/{GRPC_SERVICE}/FetchFeatureValues": (
        "vertex.FetchFeatureValues", aiplatform_v1.FetchFeatureValuesRequest),
}

# (verb, path, name): names and paths of Google's discovery documents. `*` is one part of a path,
# `**` the rest, with slashes or without.
BIGQUERY = (
    ("GET", "projects", "projects.list"),
    ("GET", "projects/*/serviceAccount", "projects.getServiceAccount"),
    ("POST", "projects/*/queries", "jobs.query"),
    ("GET", "projects/*/queries/*", "jobs.getQueryResults"),
    ("POST", "projects/*/jobs/*/cancel", "jobs.cancel"),
    ("DELETE", "projects/*/jobs/*/delete", "jobs.delete"),
    ("POST", "projects/*/datasets/*/tables/*/insertAll", "tabledata.insertAll"),
    ("GET", "projects/*/datasets/*/tables/*/data", "tabledata.list"),
    *((verb, path, f"{resource}.{name}")
      for path, resource in (
          ("projects/*/jobs", "jobs"), ("projects/*/datasets", "datasets"),
          ("projects/*/datasets/*/tables", "tables"), ("projects/*/datasets/*/models", "models"),
          ("projects/*/datasets/*/routines", "routines"))
      for verb, name in (("GET", "list"), ("POST", "insert"))),
    *((verb, path, f"{resource}.{name}")
      for path, resource in (
          ("projects/*/jobs/*", "jobs"), ("projects/*/datasets/*", "datasets"),
          ("projects/*/datasets/*/tables/*", "tables"),
          ("projects/*/datasets/*/models/*", "models"),
          ("projects/*/datasets/*/routines/*", "routines"))
      for verb, name in (
          ("GET", "get"), ("PATCH", "patch"), ("PUT", "update"), ("DELETE", "delete"))),
)
STORAGE = (
    ("GET", "b", "buckets.list"),
    ("POST", "b", "buckets.insert"),
    ("GET", "b/*/iam/testPermissions", "buckets.testIamPermissions"),
    ("GET", "b/*/iam", "buckets.getIamPolicy"),
    ("PUT", "b/*/iam", "buckets.setIamPolicy"),
    ("GET", "b/*", "buckets.get"),
    ("PATCH", "b/*", "buckets.patch"),
    ("PUT", "b/*", "buckets.update"),
    ("DELETE", "b/*", "buckets.delete"),
    ("GET", "b/*/o", "objects.list"),
    ("POST", "b/*/o/**/copyTo/b/*/o/**", "objects.copy"),
    ("POST", "b/*/o/**/rewriteTo/b/*/o/**", "objects.rewrite"),
    ("POST", "b/*/o/**/compose", "objects.compose"),
    ("POST", "b/*/o/**/restore", "objects.restore"),
    ("GET", "b/*/o/**", "objects.get"),
    ("PATCH", "b/*/o/**", "objects.patch"),
    ("PUT", "b/*/o/**", "objects.update"),
    ("DELETE", "b/*/o/**", "objects.delete"),
)
REPOSITORIES = "projects.locations.repositories"
PATHS = {
    "bigquery": (
        *((verb, f"/bigquery/v2/{path}", name) for verb, path, name in BIGQUERY),
        ("POST", "/upload/bigquery/v2/projects/*/jobs", "jobs.insert"),
        ("PUT", "/upload/bigquery/v2/projects/*/jobs", "jobs.insert"),
    ),
    "storage": (
        *((verb, f"/storage/v1/{path}", name) for verb, path, name in STORAGE),
        ("POST", "/upload/storage/v1/b/*/o", "objects.insert"),
        ("PUT", "/upload/storage/v1/b/*/o", "objects.insert"),
        ("GET", "/download/storage/v1/b/*/o/**", "objects.get"),
        ("POST", "/batch/storage/v1", "batch"),
    ),
    "platform": (
        ("GET", "/v3/projects/*", "cloudresourcemanager.projects.get"),
        *(("POST", f"/v3/projects/*:{name}", f"cloudresourcemanager.projects.{name}")
          for name in ("testIamPermissions", "getIamPolicy", "setIamPolicy")),
        ("POST", "/v1/projects/*/serviceAccounts", "iam.projects.serviceAccounts.create"),
        ("GET", "/v1/projects/*/serviceAccounts/*", "iam.projects.serviceAccounts.get"),
        ("DELETE", "/v1/projects/*/serviceAccounts/*", "iam.projects.serviceAccounts.delete"),
        ("POST", "/v1/projects/*/serviceAccounts/*:testIamPermissions",
         "iam.projects.serviceAccounts.testIamPermissions"),
        ("GET", "/v1/projects/*/services:batchGet", "serviceusage.services.batchGet"),
        ("GET", "/v1/projects/*/locations/*/repositories/*/dockerImages/**",
         f"artifactregistry.{REPOSITORIES}.dockerImages.get"),
        ("GET", "/v1/projects/*/locations/*/repositories/*",
         f"artifactregistry.{REPOSITORIES}.get"),
    ),
}


def _pattern(path: str) -> re.Pattern:
    words = {"**": ".+", "*": "[^/:]+"}
    return re.compile(re.sub(r"\*\*|\*|[^*]+", lambda m: words.get(m[0]) or re.escape(m[0]), path))


PATTERNS = {service: [(verb, _pattern(path), name if service == "platform" else f"{service}.{name}")
                      for verb, path, name in paths] for service, paths in PATHS.items()}
# Every name that a rule may have.
METHODS = {
    "sync", *(name for paths in PATTERNS.values() for *_, name in paths),
    *(f"vertex.{route.rpc}" for route in ROUTES),
    *(name for name, _ in GRPC.values()),
}


def method_of(service: str, verb: str, path: str) -> str:
    """The name of a request's method; `<service>.unknown` if the tables do not have it."""
    if service == "vertex" and (found := rest.find(ROUTES, verb, path)):
        return f"vertex.{found[0].rpc}"
    for known_verb, pattern, name in PATTERNS.get(service, ()):
        if verb == known_verb and pattern.fullmatch(path):
            return name
    return f"{service}.unknown"


def json_of(content_type: str, body: bytes) -> object:
    """The JSON of a request: its body, or the first part of an upload; None if there is none."""
    try:
        if content_type.startswith("multipart/"):
            head = f"Content-Type: {content_type}\r\n\r\n".encode()
            first = BytesParser().parsebytes(head + body).get_payload(0)
            content_type, body = first.get_content_type(), first.get_payload(decode=True)
        return json.loads(body) if "json" in content_type else None
    except (ValueError, TypeError, IndexError, AttributeError):
        return None


def check_methods(rules: list) -> None:
    """Raise ValueError for a rule whose method does not exist: it would never apply."""
    for rule in rules if isinstance(rules, list) else []:
        method = rule.get("method", "") if isinstance(rule, dict) else ""
        if isinstance(method, str) and method and not any(
                fnmatchcase(name, method) for name in METHODS):
            raise ValueError(f"{method!r} is no method here")
