"""Repositories on disk: commits that list their files, branches, tags, pull requests, and large files by
sha256."""

import hashlib
import json
import threading
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path


@dataclass(frozen=True)
class File:
    """One file of a commit. `oid` is git's name of the content; large files have a sha256 as well."""

    oid: str
    size: int
    sha256: str | None = None

    @property
    def etag(self) -> str:
        return self.sha256 or self.oid


@dataclass
class Commit:
    parent: str | None
    title: str
    date: str
    files: dict[str, File]


@dataclass
class Repository:
    kind: str  # models or datasets
    repo_id: str
    private: bool = False
    gated: bool = False
    granted: list[str] = field(default_factory=list)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    commits: dict[str, Commit] = field(default_factory=dict)
    pulls: int = 0

    def resolve(self, revision: str) -> str | None:
        """The commit that a branch, tag, pull request or commit id names."""
        if revision in self.commits:
            return revision
        return self.branches.get(revision) or self.tags.get(revision)

    def may_read(self, user: str | None) -> bool:
        return not self.private or user == self.owner

    def may_read_files(self, user: str | None) -> bool:
        return self.may_read(user) and (not self.gated or user == self.owner or user in self.granted)

    @property
    def owner(self) -> str:
        return self.repo_id.split("/")[0]


class Storage:
    """All repositories of one server, under one folder; safe to use from many threads."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.lock = threading.RLock()
        self.repos: dict[tuple[str, str], Repository] = {}
        for folder in ("blobs", "repos"):
            (root / folder).mkdir(parents=True, exist_ok=True)
        for path in sorted((root / "repos").glob("*.json")):
            repo = _repository_from(json.loads(path.read_text()))
            self.repos[repo.kind, repo.repo_id] = repo

    def create(self, kind: str, repo_id: str, *, private: bool = False, gated: bool = False) -> Repository:
        with self.lock:
            repo = Repository(kind, repo_id, private=private, gated=gated)
            self.repos[kind, repo_id] = repo
            attributes = b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"
            self.commit(repo, "main", "initial commit", add={".gitattributes": self.put(attributes)})
            return repo

    def put(self, content: bytes, *, large: bool = False) -> File:
        """Store a content and give its entry."""
        sha256 = hashlib.sha256(content).hexdigest()
        self.blob_path(sha256).write_bytes(content)
        oid = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        if not large:
            self.blob_path(oid).write_bytes(content)
        return File(oid=oid, size=len(content), sha256=sha256 if large else None)

    def blob_path(self, name: str) -> Path:
        return self.root / "blobs" / name

    def content(self, file: File) -> bytes:
        return self.blob_path(file.etag).read_bytes()

    def commit(
        self, repo: Repository, branch: str, title: str, *, add: dict[str, File], delete: tuple[str, ...] = ()
    ) -> str:
        """Add a commit to a branch and give its id."""
        with self.lock:
            parent = repo.branches.get(branch)
            files = dict(repo.commits[parent].files) if parent else {}
            for gone in delete:
                files = {
                    path: file
                    for path, file in files.items()
                    if path != gone and not path.startswith(gone.rstrip("/") + "/")
                }
            files.update(add)
            date = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
            made = Commit(parent=parent, title=title, date=date, files=dict(sorted(files.items())))
            number = len(repo.commits)
            text = json.dumps([repo.repo_id, number, asdict(made)])
            commit_id = hashlib.sha1(text.encode()).hexdigest()
            repo.commits[commit_id] = made
            repo.branches[branch] = commit_id
            self.save(repo)
            return commit_id

    def save(self, repo: Repository) -> None:
        name = f"{repo.kind}--{repo.repo_id.replace('/', '--')}.json"
        (self.root / "repos" / name).write_text(json.dumps(asdict(repo)))

    def delete(self, repo: Repository) -> None:
        with self.lock:
            del self.repos[repo.kind, repo.repo_id]
            (self.root / "repos" / f"{repo.kind}--{repo.repo_id.replace('/', '--')}.json").unlink()


def _repository_from(values: dict) -> Repository:
    repo = Repository(**values)
    repo.commits = {
        name: Commit(**{**commit, "files": {path: File(**file) for path, file in commit["files"].items()}})
        for name, commit in values["commits"].items()
    }
    return repo
