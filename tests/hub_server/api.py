"""What each address does: a table of addresses, and a function for each."""

import base64
import json
import re
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote

import yaml
from huggingface_hub.repocard import REGEX_YAML_BLOCK

from tests.hub_server import files
from tests.hub_server.answers import Answer, Refusal, Request, answer_json
from tests.hub_server.storage import Commit, File, Repository

if TYPE_CHECKING:
    from tests.hub_server.server import HubServer

_REPO = r"/api/(?P<kind>models|datasets)/(?P<repo>[^/]+/[^/]+)"
_LARGE_ENDINGS = (".safetensors", ".bin", ".pt", ".parquet", ".png", ".jpg", ".zip", ".onnx")


def answer(hub: "HubServer", request: Request) -> Answer:
    """Find the address in the table and carry the request out."""
    for method, origin, pattern, function in _ROUTES:
        found = re.fullmatch(pattern, request.path)
        if found and request.origin == origin and request.method in method.split():
            parts = {name: unquote(part) for name, part in found.groupdict().items() if part is not None}
            return function(hub, request, **parts)
    raise Refusal(404, f"Not here: {request.method} {request.path}")


def user_of(hub: "HubServer", request: Request) -> str | None:
    """Who asks; a token that nobody has is refused even for public repositories, as the Hub does."""
    header = request.headers.get("authorization")
    if header is None:
        return None
    user = hub.tokens.get(header.removeprefix("Bearer "))
    if user is None:
        raise Refusal(401, "Invalid credentials in Authorization header")
    return user


def find(hub: "HubServer", request: Request, kind: str, repo: str) -> Repository:
    """The repository, if it exists and may be seen; the same answer otherwise, so that nothing is given
    away."""
    user = user_of(hub, request)
    found = hub.storage.repos.get((kind, repo))
    if found is None or not found.may_read(user):
        raise Refusal(404 if user else 401, "Repository not found", "RepoNotFound")
    return found


def find_commit(repo: Repository, revision: str) -> tuple[str, Commit]:
    commit_id = repo.resolve(revision)
    if commit_id is None:
        raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
    return commit_id, repo.commits[commit_id]


def writable(hub: "HubServer", request: Request, kind: str, repo: str) -> Repository:
    found = find(hub, request, kind, repo)
    user = user_of(hub, request)
    if user is None:
        raise Refusal(401, "Invalid username or password.")
    if user != found.owner and request.query.get("create_pr") != "1":
        raise Refusal(403, "You don't have the rights to write to this repository")
    _refuse_read_only(hub, request)
    return found


def _refuse_read_only(hub: "HubServer", request: Request) -> None:
    if request.headers.get("authorization", "").removeprefix("Bearer ") in hub.read_only:
        raise Refusal(403, "Your token has no write permission")


def whoami(hub: "HubServer", request: Request) -> Answer:
    user = user_of(hub, request)
    if user is None:
        raise Refusal(401, "Invalid username or password.")
    return answer_json({"type": "user", "name": user, "orgs": [], "auth": {"accessToken": {"role": "write"}}})


def validate_yaml(hub: "HubServer", request: Request) -> Answer:
    content = request.json()["content"]
    head = REGEX_YAML_BLOCK.match(content)
    try:
        data = yaml.safe_load(head[2]) if head else {}
        errors = [] if isinstance(data, dict) else ["the metadata is not a mapping"]
    except yaml.YAMLError as error:
        data, errors = {}, [str(error)]
    if not errors and data.get("license") == "other" and not data.get("license_name"):
        errors.append("license_name is required when license is other")
    status = 400 if errors else 200
    return answer_json({"errors": [{"message": text} for text in errors], "warnings": []}, status=status)


def create_repo(hub: "HubServer", request: Request) -> Answer:
    user, asked = user_of(hub, request), request.json()
    if user is None:
        raise Refusal(401, "Invalid username or password.")
    _refuse_read_only(hub, request)
    owner = asked.get("organization") or user
    if owner != user:
        raise Refusal(403, f"You don't have the rights to create a model under the namespace {owner!r}")
    kind, repo_id = asked.get("type", "model") + "s", f"{owner}/{asked['name']}"
    url = f"{hub.url}/{'datasets/' if kind == 'datasets' else ''}{repo_id}"
    if (kind, repo_id) in hub.storage.repos:
        return answer_json(
            {"error": "You already created this repo", "url": url, "name": repo_id}, status=409
        )
    private = asked.get("private") or asked.get("visibility") == "private"
    hub.storage.create(kind, repo_id, private=bool(private))
    return answer_json({"url": url, "name": repo_id, "id": repo_id})


def delete_repo(hub: "HubServer", request: Request) -> Answer:
    asked = request.json()
    owner = asked.get("organization") or user_of(hub, request)
    hub.storage.delete(writable(hub, request, asked.get("type", "model") + "s", f"{owner}/{asked['name']}"))
    return answer_json({})


def repo_info(hub: "HubServer", request: Request, kind: str, repo: str, rev: str = "main") -> Answer:
    found = find(hub, request, kind, repo)
    commit_id, commit = find_commit(found, rev)
    siblings: list[dict[str, Any]] = [
        {"rfilename": path, **({"size": file.size, "blobId": file.oid} if "blobs" in request.query else {})}
        for path, file in commit.files.items()
    ]
    card = commit.files.get("README.md")
    info = {
        "_id": "0" * 24,
        "id": found.repo_id,
        "sha": commit_id,
        "private": found.private,
        "gated": "auto" if found.gated else False,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "tags": [],
        "lastModified": commit.date,
        "siblings": siblings,
        "cardData": _card_data(hub.storage.content(card).decode()) if card else {},
    }
    return answer_json(info)


def _card_data(text: str) -> dict[str, Any]:
    head = REGEX_YAML_BLOCK.match(text)
    return (yaml.safe_load(head[2]) if head else {}) or {}


def tree(hub: "HubServer", request: Request, *, kind: str, repo: str, rev: str, path: str = "") -> Answer:
    _, commit = find_commit(find(hub, request, kind, repo), rev)
    prefix = f"{path.strip('/')}/" if path.strip("/") else ""
    inside = {name: file for name, file in commit.files.items() if name.startswith(prefix)}
    if prefix and not inside:
        raise Refusal(404, f"{path} does not exist on {rev!r}", "EntryNotFound")
    folders = {parent.as_posix() for name in inside for parent in PurePosixPath(name).parents}
    entries = [_entry(name, file) for name, file in inside.items()]
    entries += [
        {"type": "directory", "oid": "0" * 40, "size": 0, "path": name}
        for name in sorted(folders)
        if name.startswith(prefix) and name != "."
    ]
    if request.query.get("recursive", "").lower() not in ("true", "1"):
        entries = [entry for entry in entries if "/" not in entry["path"][len(prefix) :]]
    return answer_json(sorted(entries, key=lambda entry: entry["path"]))


def paths_info(hub: "HubServer", request: Request, kind: str, repo: str, rev: str) -> Answer:
    _, commit = find_commit(find(hub, request, kind, repo), rev)
    asked = parse_qs(request.body.decode()).get("paths", [])
    if request.headers.get("content-type", "").startswith("application/json"):
        asked = request.json()["paths"]
    return answer_json([_entry(name, commit.files[name]) for name in asked if name in commit.files])


def _entry(name: str, file: File) -> dict[str, Any]:
    large = {"lfs": {"oid": file.sha256, "size": file.size, "pointerSize": 134}} if file.sha256 else {}
    return {"type": "file", "oid": file.oid, "size": file.size, "path": name, **large}


def refs(hub: "HubServer", request: Request, kind: str, repo: str) -> Answer:
    found = find(hub, request, kind, repo)

    def rows(kind_of_ref: str, names: dict[str, str]) -> list[dict[str, str]]:
        return [
            {"name": name, "ref": f"{kind_of_ref}{name}", "targetCommit": to} for name, to in names.items()
        ]

    branches = {name: to for name, to in found.branches.items() if not name.startswith("refs/pr/")}
    pulls = {name: to for name, to in found.branches.items() if name.startswith("refs/pr/")}
    return answer_json(
        {
            "branches": rows("refs/heads/", branches),
            "tags": rows("refs/tags/", found.tags),
            "converts": [],
            "pullRequests": rows("", pulls),
        }
    )


def commits(hub: "HubServer", request: Request, kind: str, repo: str, rev: str) -> Answer:
    found = find(hub, request, kind, repo)
    commit_id: str | None = find_commit(found, rev)[0]
    history = []
    while commit_id is not None:
        commit = found.commits[commit_id]
        history.append(
            {"id": commit_id, "title": commit.title, "message": "", "date": commit.date, "authors": []}
        )
        commit_id = commit.parent
    return answer_json(history)


def make_branch(hub: "HubServer", request: Request, kind: str, repo: str, name: str) -> Answer:
    found = writable(hub, request, kind, repo)
    if name in found.branches:
        raise Refusal(409, f"Reference already exists: refs/heads/{name}")
    found.branches[name] = find_commit(found, request.json().get("startingPoint") or "main")[0]
    hub.storage.save(found)
    return answer_json({})


def make_tag(hub: "HubServer", request: Request, kind: str, repo: str, rev: str) -> Answer:
    found, name = writable(hub, request, kind, repo), request.json()["tag"]
    if name in found.tags:
        raise Refusal(409, f"Tag reference exists already: refs/tags/{name}")
    found.tags[name] = find_commit(found, rev)[0]
    hub.storage.save(found)
    return answer_json({})


def delete_tag(hub: "HubServer", request: Request, kind: str, repo: str, rev: str) -> Answer:
    found = writable(hub, request, kind, repo)
    if found.tags.pop(rev, None) is None:
        raise Refusal(404, f"Invalid rev id: {rev}", "RevisionNotFound")
    hub.storage.save(found)
    return answer_json({})


def preupload(hub: "HubServer", request: Request, kind: str, repo: str, rev: str) -> Answer:
    found = writable(hub, request, kind, repo)
    _, commit = find_commit(found, rev)
    rows = []
    for asked in request.json()["files"]:
        binary = b"\0" in base64.b64decode(asked["sample"])
        large = binary or asked["size"] > 10 * 2**20 or asked["path"].endswith(_LARGE_ENDINGS)
        there = commit.files.get(asked["path"])
        rows.append(
            {
                "path": asked["path"],
                "uploadMode": "lfs" if large else "regular",
                "shouldIgnore": False,
                "oid": there.etag if there else None,
            }
        )
    return answer_json({"files": rows})


def commit(hub: "HubServer", request: Request, kind: str, repo: str, rev: str) -> Answer:
    found = writable(hub, request, kind, repo)
    head, add, delete = _operations(hub, request)
    parent, _ = find_commit(found, rev)
    if head.get("parentCommit") not in (None, parent):
        raise Refusal(412, "A commit has happened since. Please refresh and try again.")
    branch, pull_url = rev, None
    with hub.storage.lock:
        if request.query.get("create_pr") == "1":
            found.pulls += 1
            branch = f"refs/pr/{found.pulls}"
            found.branches[branch] = parent
            pull_url = f"{hub.url}/{found.repo_id}/discussions/{found.pulls}"
        elif rev not in found.branches:
            raise Refusal(400, f"{rev} is not a branch")
        commit_id = hub.storage.commit(found, branch, head["summary"], add=add, delete=tuple(delete))
    url = f"{hub.url}/{'datasets/' if kind == 'datasets' else ''}{found.repo_id}/commit/{commit_id}"
    made = {"success": True, "commitOid": commit_id, "commitUrl": url, "hookOutput": ""}
    return answer_json({**made, **({"pullRequestUrl": pull_url} if pull_url else {})})


def _operations(hub: "HubServer", request: Request) -> tuple[dict[str, Any], dict[str, File], list[str]]:
    """The lines of a commit: its header, the files to add, the paths to delete."""
    head: dict[str, Any] = {}
    add: dict[str, File] = {}
    delete: list[str] = []
    for line in request.body.splitlines():
        item = json.loads(line)
        value = item["value"]
        if item["key"] == "header":
            head = value
        elif item["key"] == "file":
            add[value["path"]] = hub.storage.put(base64.b64decode(value["content"]))
        elif item["key"] == "lfsFile":
            if not hub.storage.blob_path(value["oid"]).is_file():
                raise Refusal(400, f"LFS pointer pointed to a file that does not exist: {value['path']}")
            add[value["path"]] = hub.storage.put(hub.storage.blob_path(value["oid"]).read_bytes(), large=True)
        elif item["key"] in ("deletedFile", "deletedFolder"):
            delete.append(value["path"])
        else:
            raise Refusal(400, f"This server does not do {item['key']}")
    return head, add, delete


def discussion(hub: "HubServer", request: Request, kind: str, repo: str, number: str) -> Answer:
    found = find(hub, request, kind, repo)
    if int(number) > found.pulls:
        raise Refusal(404, "Not found")
    return answer_json({"num": int(number), "isPullRequest": True, "status": "open"})


def no_xet(hub: "HubServer", request: Request, kind: str, repo: str, rev: str) -> Answer:
    """Clients with hf_xet ask for a token of the Xet store, which this Hub does not have."""
    raise Refusal(404, "This Hub has no Xet store")


def harnesses(hub: "HubServer", request: Request) -> Answer:
    return answer_json({"standardEnvVars": [], "harnesses": {}})


_Route = tuple[str, str, str, Callable[..., Answer]]
_ROUTES: list[_Route] = [
    ("GET", "hub", r"/api/whoami-v2", whoami),
    ("GET", "hub", r"/api/agent-harnesses", harnesses),
    ("POST", "hub", r"/api/validate-yaml", validate_yaml),
    ("POST", "hub", r"/api/repos/create", create_repo),
    ("DELETE", "hub", r"/api/repos/delete", delete_repo),
    ("GET", "hub", _REPO, repo_info),
    ("GET", "hub", _REPO + r"/revision/(?P<rev>[^/]+)", repo_info),
    ("GET", "hub", _REPO + r"/tree/(?P<rev>[^/]+)(?:/(?P<path>.*))?", tree),
    ("POST", "hub", _REPO + r"/paths-info/(?P<rev>[^/]+)", paths_info),
    ("GET", "hub", _REPO + r"/refs", refs),
    ("GET", "hub", _REPO + r"/commits/(?P<rev>[^/]+)", commits),
    ("POST", "hub", _REPO + r"/branch/(?P<name>[^/]+)", make_branch),
    ("POST", "hub", _REPO + r"/tag/(?P<rev>[^/]+)", make_tag),
    ("DELETE", "hub", _REPO + r"/tag/(?P<rev>[^/]+)", delete_tag),
    ("POST", "hub", _REPO + r"/preupload/(?P<rev>[^/]+)", preupload),
    ("POST", "hub", _REPO + r"/commit/(?P<rev>[^/]+)", commit),
    ("GET", "hub", _REPO + r"/xet-(?:read|write)-token/(?P<rev>[^/]+)", no_xet),
    ("GET", "hub", _REPO + r"/discussions/(?P<number>\d+)", discussion),
    *files.ROUTES,
]
