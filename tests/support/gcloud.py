"""The gcloud commands that preflight prints, applied to the local cloud's project."""

import json
import shlex

from lib.localcloud.platform import Platform

# Roles that are granted to the caller -> the permissions that this ends the lack of.
OF_CALLER = {"roles/storage.objectUser": "storage.objects."}


def apply(platform: Platform, line: str) -> None:
    """Do what a line of commands, joined by &&, would do in the project.

    Raises:
        ValueError: for a command that is not known here, or that Google would refuse.
    """
    for command in line.split(" && "):
        words = shlex.split(command)
        options = {key: value for key, value in zip(words, words[1:], strict=False)
                   if key.startswith("--")}
        plain = [word for word, before in zip(words, ["", *words], strict=False)
                 if not word.startswith("--") and not before.startswith("--")]
        match plain:
            case ["gcloud", "services", "enable", *apis] if apis:
                platform.disabled_apis -= set(apis)
                if "compute.googleapis.com" in apis:
                    platform.iam.add_compute_account()
            case ["gcloud", "beta", "services", "identity", "create"]:
                _create_agent(platform, options["--service"])
            case ["gcloud", "projects", "add-iam-policy-binding", platform.project]:
                _grant(platform, options["--member"], options["--role"])
            case ["gcloud", "artifacts", "repositories", "create", name]:
                parent = f"projects/{options['--project']}/locations/{options['--location']}"
                platform.registry.write_text(json.dumps([f"{parent}/repositories/{name}"]))
            case _:
                raise ValueError(f"unknown command: {command}")


def _create_agent(platform: Platform, api: str) -> None:
    """It exists then, and has no role yet."""
    if api in platform.disabled_apis:
        raise ValueError(f"{api} is not enabled")
    domain = "gcp-sa-" + api.split(".")[0]
    platform.iam.accounts[platform.iam.agent(domain)] = {}


def _grant(platform: Platform, member: str, role: str) -> None:
    kind, _, email = member.partition(":")
    if kind == "user":
        platform.missing_permissions -= {
            p for p in platform.missing_permissions if p.startswith(OF_CALLER[role])}
        return
    if email not in platform.iam.accounts:
        raise ValueError(f"Service account {email} does not exist.")
    platform.iam.grant(member, role)
