"""Create the account that training and serving run as, and grant it its roles.

    python -m lib.operate.service_account [--target gcp] [--env dev|prod]

It is names.service_account of config.yaml, or the existing account of train.service_account. What
exists is reused. Needs roles/iam.serviceAccountCreator and roles/resourcemanager.projectIamAdmin
on the project, which an owner has. Exit status: 0 done, 1 refused, 2 a bad command line or
config.yaml.
"""

import argparse
import sys
from collections.abc import Callable

from google.api_core import exceptions as google_errors

from lib import cli, waiting
from lib.cloud import Cloud, connected
from lib.config import Settings
from lib.errors import Needed, existing, first_line
from lib.operate import accounts, finding
from lib.stages import Outcome

MODULE = "lib.operate.service_account"
# The roles, the smallest that can be granted on a project, and what each is for.
ROLES = {
    "roles/aiplatform.user": "report steps, artifacts and metrics to Vertex AI",
    "roles/bigquery.dataViewer": "read train_dataset",
    "roles/bigquery.readSessionUser": "read it by the Storage Read API",
    "roles/storage.objectUser": "read and write artifacts; read the model",
    # Vertex AI Pipelines asks for storage.buckets.get, which objectUser does not have.
    "roles/storage.bucketViewer": "see the bucket",
}
# What the weekly refresh (lib.operate.schedule) needs besides: the account has it only where there
# is a schedule. dataEditor may also be granted on the dataset alone.
REFRESH_ROLES = {
    "roles/bigquery.jobUser": "run its queries",
    "roles/bigquery.dataEditor": "write the copies of the source, and the features",
}

ACCOUNTS = ".iam.gserviceaccount.com"  # after the project, in the e-mail of an account made there
# Who may run this command, besides an owner of the project.
ADMINISTRATOR = ("roles/iam.serviceAccountCreator", "roles/resourcemanager.projectIamAdmin")


def find(cloud: Cloud) -> dict | None:
    """The account, as in IAM's API; None if it does not exist."""
    return existing(cloud.iam, "GET", _name(cloud.settings))


def may_act_as(cloud: Cloud) -> bool:
    """May we start jobs that run as the account? By the account or by the project."""
    permission = "iam.serviceAccounts.actAs"
    answer = cloud.iam("POST", f"{_name(cloud.settings)}:testIamPermissions",
                       {"permissions": [permission]})
    return permission in answer.get("permissions", [])


def is_ours(account: dict, settings: Settings) -> bool:
    """Did this app make it in this environment? Its description says so: it has no labels."""
    return account.get("description") == _description(settings)


def make(cloud: Cloud) -> Outcome:
    """Create or reuse the account, and grant it the roles that it lacks.

    Raises:
        Needed: the target has no such account, or train.service_account does not exist.
        google.api_core.exceptions.Forbidden: we may not.
    """
    settings, email = cloud.settings, cloud.settings.service_account
    if email is None:
        raise Needed(f"target {settings.target} has no account of its own",
                     f"targets.{settings.target}.own_account: true in config.yaml")
    status = "reused"
    if find(cloud) is None:
        if settings.train.service_account:
            raise Needed(f"the account {email} of train.service_account does not exist",
                         "an existing account, or null: then this command creates one")
        cloud.iam("POST", f"projects/{settings.project}/serviceAccounts", {
            "accountId": settings.names.service_account,
            "serviceAccount": {"displayName": f"{settings.app} {settings.env}: training, serving",
                               "description": _description(settings)}})
        status = "created"
    # Google: it may take a minute until a new account is known everywhere.
    granted = waiting.until(
        settings, email, lambda: _change(cloud, _grant, email), lambda done: done is not None,
        settings.waits.iam_seconds)
    return Outcome(status, email, {"new roles": ", ".join(granted) or "none"})


def delete(cloud: Cloud, email: str) -> None:
    """Take the account out of the project's policy, where its name would stay, then delete it.

    Raises:
        Needed: we may not change the policy.
    """
    try:
        waiting.until(cloud.settings, email, lambda: _change(cloud, _revoke, email),
                      lambda done: done is not None, cloud.settings.waits.iam_seconds)
    except google_errors.Forbidden as error:
        raise Needed(
            f"its roles cannot be taken back: {error.message}",
            "roles/resourcemanager.projectIamAdmin: let an owner of the project do it",
            cloud.settings.command("lib.operate.teardown", "--yes")) from None
    cloud.iam("DELETE", f"projects/{cloud.settings.project}/serviceAccounts/{email}")


def _name(settings: Settings) -> str:
    """The account in its project, which its e-mail names; Google's own accounts have no project
    there, and are looked up in ours."""
    project, made, _ = settings.service_account.partition("@")[2].partition(ACCOUNTS)
    return f"projects/{project if made else settings.project}/serviceAccounts/" \
           f"{settings.service_account}"


def _description(settings: Settings) -> str:
    return f"app={settings.app} env={settings.env}: made by {MODULE}"


def _change(cloud: Cloud, change: Callable, email: str) -> list[str] | None:
    """Change the project's policy; the roles that it was about. None: not possible yet, since
    somebody else changed it meanwhile (its etag says so), or the new account is not known yet."""
    current = accounts.policy(cloud)
    roles = change(current, f"serviceAccount:{email}")
    if not roles:
        return roles
    try:
        cloud.projects.set_iam_policy(request={
            "resource": f"projects/{cloud.settings.project}", "policy": current})
    except google_errors.Conflict:
        return None
    except google_errors.BadRequest as error:
        if "does not exist" not in str(error):
            raise
        return None
    return roles


def _grant(policy, member: str) -> list[str]:
    """Add the member to the binding of each role that it lacks; those roles."""
    plain = {b.role: b for b in policy.bindings if not b.condition.expression}
    lacking = [role for role in ROLES
               if role not in plain or member not in plain[role].members]
    for role in lacking:
        (plain.get(role) or policy.bindings.add(role=role)).members.append(member)
    return lacking


def _revoke(policy, member: str) -> list[str]:
    """Remove the member from every binding; the roles of those."""
    roles = [b.role for b in policy.bindings if member in b.members]
    for binding in policy.bindings:
        while member in binding.members:
            binding.members.remove(member)
    kept = [binding for binding in policy.bindings if binding.members]
    del policy.bindings[:]
    policy.bindings.extend(kept)
    return roles


def main(arguments: list[str] | None = None) -> int:
    """The command; returns the exit status."""
    parser = cli.parser(f"python -m {MODULE}", __doc__)
    return cli.run(parser.parse_args(arguments), "service account", "the account and its roles",
                   _make)


def _make(settings: Settings, _options: argparse.Namespace) -> None:
    try:
        with connected(settings) as cloud:
            outcome = make(cloud)
    except google_errors.Forbidden as error:
        if finding.disabled_api(error) or finding.about_quota_project(error):
            raise
        raise Needed(
            first_line(error), " and ".join(ADMINISTRATOR) + f" on project {settings.project}, "
            "which an owner has: let an owner run this command",
            settings.command(MODULE)) from None
    print(f"{outcome.resource}: {outcome.status}; new roles: {outcome.figures['new roles']}")


if __name__ == "__main__":
    sys.exit(main())
