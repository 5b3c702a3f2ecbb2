"""IAM of the local cloud's project: its policy, its service accounts, and who may act as one.

Every rule is listed with its source in README.md.
"""

import json
import re
from pathlib import Path

from google.cloud.iam_admin_v1 import types
from google.iam.v1 import iam_policy_pb2, policy_pb2
from google.protobuf import empty_pb2, json_format
from google.protobuf.message import Message

from lib.localcloud import rest
from lib.localcloud.errors import invalid, refused

IAM = "iam.googleapis.com"
ACCOUNT_ID = re.compile("[a-z]([-a-z0-9]*[a-z0-9])")
AGENT_ROLES = {
    "gcp-sa-aiplatform": "roles/aiplatform.serviceAgent",
    "gcp-sa-aiplatform-cc": "roles/aiplatform.customCodeServiceAgent",
    "gcp-sa-cloudbuild": "roles/cloudbuild.serviceAgent"}
# What Vertex AI Pipelines asks of the account of a job, and roles that have it.
STORAGE_ROLES = {"roles/editor", "roles/owner", "roles/storage.admin", "roles/storage.objectAdmin",
                 "roles/storage.objectUser"}
_ACCOUNTS = "projects/*/serviceAccounts"
ROUTES = [
    rest.route("POST", "/v3/{resource=projects/*}:getIamPolicy", "GetIamPolicy",
               iam_policy_pb2.GetIamPolicyRequest, "*"),
    rest.route("POST", "/v3/{resource=projects/*}:setIamPolicy", "SetIamPolicy",
               iam_policy_pb2.SetIamPolicyRequest, "*"),
    rest.route("POST", f"/v1/{{resource={_ACCOUNTS}/*}}:testIamPermissions",
               "TestAccountPermissions", iam_policy_pb2.TestIamPermissionsRequest, "*"),
    rest.route("POST", "/v1/{name=projects/*}/serviceAccounts", "CreateServiceAccount",
               types.CreateServiceAccountRequest.pb(), "*"),
    rest.route("GET", f"/v1/{{name={_ACCOUNTS}/*}}", "GetServiceAccount",
               types.GetServiceAccountRequest.pb()),
    rest.route("DELETE", f"/v1/{{name={_ACCOUNTS}/*}}", "DeleteServiceAccount",
               types.DeleteServiceAccountRequest.pb())]
METHODS = {
    "GetIamPolicy": "get_policy", "SetIamPolicy": "set_policy",
    "TestAccountPermissions": "test_permissions", "CreateServiceAccount": "create",
    "GetServiceAccount": "get", "DeleteServiceAccount": "delete"}


class Iam:
    """The policy and the service accounts, kept in a JSON file.

    A project that has been in use: Compute Engine's default account is an editor, and Google's
    service agents have their roles. `empty` makes it new.

    Attributes:
        policy: the project's (google.iam.v1.Policy); its etag counts the changes.
        accounts: e-mail -> its fields, as in JSON.
    """

    def __init__(self, project: str, number: int, file: Path, missing_permissions: set[str]):
        self._project, self._number, self._file = project, number, file
        self._missing = missing_permissions
        self.policy, self.accounts = policy_pb2.Policy(etag=b"1"), {}
        if file.exists():
            kept = json.loads(file.read_text())
            json_format.ParseDict(kept["policy"], self.policy)
            self.accounts = kept["accounts"]
        else:
            self.add_compute_account()
            self.grant(f"serviceAccount:{self.compute_account}", "roles/editor")
            for domain in AGENT_ROLES:
                self.add_agent(domain)

    @property
    def compute_account(self) -> str:
        return f"{self._number}-compute@developer.gserviceaccount.com"

    def agent(self, domain: str) -> str:
        return f"service-{self._number}@{domain}.iam.gserviceaccount.com"

    def empty(self) -> None:
        """No service account, no agent, nobody but the caller with a role."""
        self.accounts.clear()
        del self.policy.bindings[:]
        self._save()

    def add_compute_account(self) -> None:
        """As when Compute Engine's API is enabled; no role comes with it in a new organisation."""
        self.accounts[self.compute_account] = {
            "displayName": "Compute Engine default service account"}
        self._save()

    def add_agent(self, domain: str) -> None:
        """A service agent, with its role."""
        self.grant(f"serviceAccount:{self.agent(domain)}", AGENT_ROLES[domain])

    def grant(self, member: str, role: str) -> None:
        """Add a binding to the project's policy."""
        for binding in self.policy.bindings:
            if binding.role == role:
                if member not in binding.members:
                    binding.members.append(member)
                break
        else:
            self.policy.bindings.add(role=role, members=[member])
        self._save()

    def roles(self, email: str) -> set[str]:
        """The roles of a service account in the project."""
        return {b.role for b in self.policy.bindings if f"serviceAccount:{email}" in b.members}

    def check_act_as(self, email: str) -> None:
        """The caller may start a job as this account, and the job may use the bucket."""
        if email not in self.accounts:
            raise invalid("fresh.act-as", "You do not have permission to act as "
                          f"service_account: {email}. (or it may not exist).")
        if not self.roles(email) & STORAGE_ROLES:
            raise invalid("fresh.job-roles", f"Service account {email} does not have "
                          "[storage.objects.get, storage.objects.create] IAM permission(s) to the "
                          "bucket.")

    # The methods

    def get_policy(self, request: Message) -> Message:
        """projects.getIamPolicy."""
        self._allow(request.resource, "resourcemanager.projects.getIamPolicy")
        return self.policy

    def set_policy(self, request: Message) -> Message:
        """projects.setIamPolicy: replaces the policy that has this etag."""
        self._allow(request.resource, "resourcemanager.projects.setIamPolicy")
        given = request.policy
        if given.etag and given.etag != self.policy.etag:
            raise refused("iam.etag", "ABORTED", "There were concurrent policy changes. Please "
                          "retry the whole read-modify-write with exponential backoff.")
        own = f"@{self._project}.iam.gserviceaccount.com"
        for member in {m for binding in given.bindings for m in binding.members}:
            email = member.removeprefix("serviceAccount:")
            if email.endswith(own) and email not in self.accounts:
                raise invalid("iam.member", f"Service account {email} does not exist.")
        current = self.policy.etag
        self.policy.CopyFrom(given)
        self.policy.etag = current
        self._save()
        return self.policy

    def test_permissions(self, request: Message) -> Message:
        """serviceAccounts.testIamPermissions: those of the given ones that the caller has."""
        self._find(request.resource)
        return iam_policy_pb2.TestIamPermissionsResponse(
            permissions=[p for p in request.permissions if p not in self._missing])

    def create(self, request: Message) -> Message:
        """serviceAccounts.create."""
        self._allow(request.name, "iam.serviceAccounts.create")
        name = request.account_id
        if not (6 <= len(name) <= 30 and ACCOUNT_ID.fullmatch(name)):
            raise invalid("iam.account-id", f"account_id: {name!r} must have 6 to 30 characters "
                          f"and match {ACCOUNT_ID.pattern}.")
        email = f"{name}@{self._project}.iam.gserviceaccount.com"
        if email in self.accounts:
            raise refused("iam.exists", "ALREADY_EXISTS",
                           f"Service account {name} already exists within project {request.name}.")
        given = request.service_account
        self.accounts[email] = {"displayName": given.display_name, "description": given.description}
        self._save()
        return self._account(email)

    def get(self, request: Message) -> Message:
        """serviceAccounts.get."""
        self._allow(request.name, "iam.serviceAccounts.get")
        return self._account(self._find(request.name))

    def delete(self, request: Message) -> Message:
        """serviceAccounts.delete; the bindings with its name stay in the policy."""
        self._allow(request.name, "iam.serviceAccounts.delete")
        del self.accounts[self._find(request.name)]
        self._save()
        return empty_pb2.Empty()

    def _account(self, email: str) -> Message:
        return types.ServiceAccount.pb(types.ServiceAccount(
            name=f"projects/{self._project}/serviceAccounts/{email}", email=email,
            project_id=self._project, display_name=self.accounts[email].get("displayName"),
            description=self.accounts[email].get("description")))

    def _find(self, name: str) -> str:
        email = name.rsplit("/", 1)[1]
        if email not in self.accounts:
            raise refused("iam.unknown", "NOT_FOUND", "Unknown service account")
        return email

    def _allow(self, resource: str, permission: str) -> None:
        if permission in self._missing:
            raise refused("iam.permission", "PERMISSION_DENIED", f"Permission '{permission}' "
                          f"denied on resource '{resource}' (or it may not exist).")

    def _save(self) -> None:
        self.policy.etag = b"%d" % (int(self.policy.etag) + 1)
        self._file.parent.mkdir(parents=True, exist_ok=True)
        self._file.write_text(json.dumps({
            "policy": json_format.MessageToDict(self.policy), "accounts": self.accounts}))
