"""Files: what a client asks before a download, the download, and the upload of large ones."""

import hashlib
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from tests.hub_server import api
from tests.hub_server.answers import Answer, Refusal, Request, answer_json
from tests.hub_server.storage import File, Repository

if TYPE_CHECKING:
    from tests.hub_server.server import HubServer

_PREFIX = r"/(?P<prefix>datasets/)?(?P<repo>[^/]+/[^/]+)"


def _file(
    hub: "HubServer", request: Request, *, kind: str, repo: str, rev: str, path: str
) -> tuple[Repository, str, File]:
    found = api.find(hub, request, kind, repo)
    user = api.user_of(hub, request)
    if not found.may_read_files(user):
        if user is None:
            raise Refusal(401, f"Access to model {repo} is restricted. Please log in.", "GatedRepo")
        raise Refusal(403, f"Access to model {repo} is restricted and you are not allowed.", "GatedRepo")
    commit_id, commit = api.find_commit(found, rev)
    if path not in commit.files:
        raise Refusal(404, "Entry not found", "EntryNotFound")
    return found, commit_id, commit.files[path]


def resolve(
    hub: "HubServer", request: Request, *, repo: str, rev: str, path: str, prefix: str = ""
) -> Answer:
    """Where a file is: a redirect to the store for a large one, to the cache of the Hub for another."""
    kind = "datasets" if prefix else "models"
    _, commit_id, file = _file(hub, request, kind=kind, repo=repo, rev=rev, path=path)
    common = {"X-Repo-Commit": commit_id, "X-Linked-Size": str(file.size), "Accept-Ranges": "bytes"}
    if file.sha256 is None:
        to = f"/api/resolve-cache/{kind}/{repo}/{commit_id}/{quote(path)}"
        return Answer(307, b"", {**common, "ETag": f'"{file.oid}"', "Location": to})
    if hub.announces_xet:
        route = f"{hub.url}/api/{kind}/{repo}/xet-read-token/{commit_id}"
        common |= {"X-Xet-Hash": file.sha256, "Link": f'<{route}>; rel="xet-auth"'}
    signed = f"{hub.store_url}/lfs/{file.sha256}?signature={_signature(file.sha256)}"
    return Answer(302, b"", {**common, "X-Linked-Etag": f'"{file.sha256}"', "Location": signed})


def cached(hub: "HubServer", request: Request, *, kind: str, repo: str, rev: str, path: str) -> Answer:
    _, commit_id, file = _file(hub, request, kind=kind, repo=repo, rev=rev, path=path)
    headers = {"X-Repo-Commit": commit_id, "ETag": f'"{file.oid}"', "Accept-Ranges": "bytes"}
    return Answer(200, hub.storage.content(file), headers, ranged=True)


def stored(hub: "HubServer", request: Request, name: str) -> Answer:
    """A large file from the store, for the signed address alone: a user's token must not come here."""
    if "authorization" in request.headers:
        raise Refusal(400, "Only one auth mechanism allowed")
    if request.query.get("signature") != _signature(name) or not hub.storage.blob_path(name).is_file():
        raise Refusal(403, "Request has expired")
    return Answer(200, hub.storage.blob_path(name).read_bytes(), {"ETag": f'"{name[:32]}"'}, ranged=True)


def batch(hub: "HubServer", request: Request, repo: str, prefix: str = "") -> Answer:
    """Where each large file is to be sent; nothing for those that are here already."""
    found = api.find(hub, request, "datasets" if prefix else "models", repo)
    if api.user_of(hub, request) is None:
        raise Refusal(401, "Invalid username or password.")
    objects: list[dict[str, Any]] = []
    for asked in request.json()["objects"]:
        row: dict[str, Any] = {"oid": asked["oid"], "size": asked["size"]}
        if not hub.storage.blob_path(asked["oid"]).is_file():
            verify = f"{hub.url}/{prefix or ''}{found.repo_id}.git/info/lfs/objects/verify"
            upload = f"{hub.store_url}/lfs/upload/{asked['oid']}?signature={_signature(asked['oid'])}"
            row["actions"] = {"upload": {"href": upload}, "verify": {"href": verify}}
        objects.append(row)
    return answer_json({"transfer": "basic", "objects": objects})


def upload(hub: "HubServer", request: Request, name: str) -> Answer:
    if "authorization" in request.headers or request.query.get("signature") != _signature(name):
        raise Refusal(403, "SignatureDoesNotMatch")
    if hashlib.sha256(request.body).hexdigest() != name:
        raise Refusal(400, "The content does not have this sha256")
    scratch = hub.storage.root / f"{name}.{time.monotonic_ns()}"
    scratch.write_bytes(request.body)
    scratch.rename(hub.storage.blob_path(name))
    return Answer(200)


def verify(hub: "HubServer", request: Request, repo: str, prefix: str = "") -> Answer:
    asked = request.json()
    path = hub.storage.blob_path(asked["oid"])
    if not path.is_file() or path.stat().st_size != asked["size"]:
        raise Refusal(404, "This object was not uploaded")
    return answer_json({})


def _signature(name: str) -> str:
    return hashlib.sha256(f"signed {name}".encode()).hexdigest()[:32]


ROUTES: list[tuple[str, str, str, Callable[..., Answer]]] = [
    ("GET HEAD", "hub", _PREFIX + r"/(?:resolve|raw)/(?P<rev>[^/]+)/(?P<path>.+)", resolve),
    (
        "GET HEAD",
        "hub",
        r"/api/resolve-cache/(?P<kind>models|datasets)/(?P<repo>[^/]+/[^/]+)/(?P<rev>[^/]+)/(?P<path>.+)",
        cached,
    ),
    ("POST", "hub", _PREFIX + r"\.git/info/lfs/objects/batch", batch),
    ("POST", "hub", _PREFIX + r"\.git/info/lfs/objects/verify", verify),
    ("PUT", "store", r"/lfs/upload/(?P<name>[0-9a-f]{64})", upload),
    ("GET HEAD", "store", r"/lfs/(?P<name>[0-9a-f]{64})", stored),
]
