"""A server that speaks as much of the Hugging Face Hub's protocol as `huggingface_hub` needs."""

import base64
import contextlib
import hashlib
import json
import re
from collections.abc import Callable, Iterator
from urllib.parse import unquote

import numpy as np

from tests.checkpoints.web_server import Answer, Request, Server, serving

REPO = "someone/nets"
WEIGHTS = np.random.default_rng(0).bytes(300_000)
LARGE = (".safetensors", ".pth", ".bin")  # stored by SHA-256, the others by git's hash


class FakeHub:
    """One repository.

    Attributes:
      commits: The files of each commit, by name.
      branches: The last commit of each branch.
      changes: For paths of requests that match a regular expression, changes the answer.
      uploads: Contents by SHA-256, uploaded and not yet committed.
      created: What the request for a new repository said; None for a repository that exists.
    """

    def __init__(self, files: dict[str, bytes] | None):
        self.commits, self.branches = {}, {}
        self.changes: list[tuple[str, Callable[[Answer], Answer]]] = []
        self.uploads, self.created = {}, None
        self.server: Server | None = None
        if files is not None:
            self.add(files)

    def add(self, files: dict[str, bytes], branch: str = "main") -> str:
        """Adds a commit, which has these files alone; returns its hash."""
        commit = hashlib.sha1(f"{len(self.commits)}".encode()).hexdigest()
        self.commits[commit] = files
        self.branches[branch] = commit
        return commit

    def paths(self, method: str = "") -> list[str]:
        """Returns what was asked for."""
        asked = [r for r in self.server.requests if r.method.startswith(method)]
        return [f"{r.method} {r.path}" for r in asked]

    def answer(self, request: Request) -> Answer:
        answer = self._answer(request)
        for pattern, change in self.changes:
            if re.search(pattern, f"{request.method} {request.path}"):
                answer = change(answer)
        return answer

    def _answer(self, request: Request) -> Answer:
        for pattern, handle in (
            (rf"/api/models/{REPO}(?:/revision/([^?]+))?(?:\?.*)?", self._info),
            (rf"/{REPO}/resolve/([^/]+)/(.+)", self._file),
            (r"/api/repos/create", self._create),
            (r"/api/validate-yaml", lambda request: as_json({"warnings": []})),
            (rf"/api/models/{REPO}/preupload/(.+)", self._preupload),
            (rf"/{REPO}\.git/info/lfs/objects/batch", self._batch),
            (r"/upload/(.+)", self._upload),
            (rf"/api/models/{REPO}/commit/(.+)", self._commit),
        ):
            if found := re.fullmatch(pattern, request.path):
                return handle(request, *(part and unquote(part) for part in found.groups()))
        return refusal("RepoNotFound")

    def _files(self, revision: str | None) -> tuple[str | None, dict[str, bytes]]:
        revision = revision or "main"
        commit = self.branches.get(revision, revision)
        return (commit, self.commits[commit]) if commit in self.commits else (None, {})

    def _info(self, request: Request, revision: str | None) -> Answer:
        if not self.commits and self.created is None:
            return refusal("RepoNotFound")
        commit, files = self._files(revision)
        if commit is None:
            return refusal("RevisionNotFound")
        siblings = [{"rfilename": name} for name in files]
        return as_json({"id": REPO, "sha": commit, "siblings": siblings})

    def _file(self, request: Request, revision: str, name: str) -> Answer:
        commit, files = self._files(revision)
        if commit is None:
            return refusal("RevisionNotFound")
        if name not in files:
            return refusal("EntryNotFound", {"X-Repo-Commit": commit})
        body = files[name]
        git = hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()
        etag = hashlib.sha256(body).hexdigest() if name.endswith(LARGE) else git
        return Answer(body, headers={"X-Repo-Commit": commit, "ETag": f'"{etag}"'})

    def _create(self, request: Request) -> Answer:
        self.created = json.loads(request.body)
        return as_json({"url": f"{self.server.url}/{REPO}"})

    def _preupload(self, request: Request, branch: str) -> Answer:
        files = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["path"].endswith(LARGE) else "regular",
                "shouldIgnore": False,
            }
            for file in json.loads(request.body)["files"]
        ]
        return as_json({"files": files})

    def _batch(self, request: Request) -> Answer:
        objects = [
            {**file, "actions": {"upload": {"href": f"{self.server.url}/upload/{file['oid']}"}}}
            for file in json.loads(request.body)["objects"]
        ]
        return as_json({"transfer": "basic", "objects": objects})

    def _upload(self, request: Request, oid: str) -> Answer:
        if hashlib.sha256(request.body).hexdigest() != oid:
            return Answer(status=400)
        self.uploads[oid] = request.body
        return Answer()

    def _commit(self, request: Request, branch: str) -> Answer:
        lines = [json.loads(line) for line in request.body.splitlines()]
        parent = lines[0]["value"].get("parentCommit")
        if parent != self.branches.get(branch):
            return Answer(status=412, body=b'{"error": "A commit has happened since"}')
        files = dict(self._files(branch)[1])
        for line in lines[1:]:
            value = line["value"]
            is_large = line["key"] == "lfsFile"
            files[value["path"]] = (
                self.uploads[value["oid"]] if is_large else base64.b64decode(value["content"])
            )
        commit = self.add(files, branch)
        url = f"{self.server.url}/{REPO}/commit/{commit}"
        return as_json({"success": True, "commitOid": commit, "commitUrl": url})


def as_json(value: dict) -> Answer:
    return Answer(json.dumps(value).encode(), headers={"Content-Type": "application/json"})


def refusal(code: str, headers: dict[str, str] | None = None) -> Answer:
    """Returns the hub's answer about something that is not there."""
    status = 403 if code == "GatedRepo" else 404
    return Answer(status=status, headers={"X-Error-Code": code, **(headers or {})})


@contextlib.contextmanager
def serving_hub(files: dict[str, bytes] | None) -> Iterator[FakeHub]:
    """Runs a hub whose repository has these files; None: it does not exist."""
    hub = FakeHub(files)
    with serving(hub.answer) as hub.server:
        yield hub
