"""A small Hub on this machine: as much of its HTTP API as uploads, downloads and `from_pretrained` use."""

import base64
import hashlib
import json
import re
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

from helpers.fake_xet import chunks_of, files_of

TOKEN = "hf_test"
REPOSITORY = "someone/detector"
XET_TOKEN = "xet_test"  # what the Hub gives for it, to write to Xet
NAMESPACE = "someone"  # where the token may write


@dataclass
class Commit:
    oid: str
    message: str
    files: dict[str, bytes]


@dataclass
class Repository:
    private: bool
    commits: list[Commit] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)

    def commit(self, message: str, files: dict[str, bytes]) -> Commit:
        content = repr((message, len(self.commits), sorted(files.items()))).encode()
        self.commits.append(Commit(hashlib.sha1(content).hexdigest(), message, files))
        return self.commits[-1]

    def at(self, revision: str) -> Commit | None:
        oid = self.tags.get(revision, revision)
        return self.commits[-1] if oid == "main" else next((c for c in self.commits if c.oid == oid), None)


class FakeHub:
    """
    Serves while it is entered. What arrived is in `repositories` and `objects`; `requests` are (method, path).

    `breaks_off(path)`: whether the connection is cut in the middle of this upload of a large file. `down`: it is cut at
    once, whatever is asked.
    """

    def __init__(self):
        self.repositories: dict[str, Repository] = {}
        self.objects: dict[str, bytes] = {}  # large files by sha256
        self.xorbs: dict[str, list[bytes]] = {}  # what they came in, if by Xet
        self.requests: list[tuple[str, str]] = []
        self.breaks_off = lambda path: False
        self.down = False
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self.server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()


def is_large(path: str) -> bool:
    return path.endswith((".safetensors", ".png"))


def blob_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        self._answer()

    do_HEAD = do_POST = do_PUT = do_GET

    def _answer(self):
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append((self.command, path))
        if self.hub.down:
            self.close_connection = True
            return
        length = int(self.headers.get("Content-Length") or 0)
        if self.hub.breaks_off(path):
            self.rfile.read(length // 2)
            self.close_connection = True
            return
        self.body = self.rfile.read(length)
        path = re.sub("^(/api)?/spaces/", lambda start: "/api/models/" if start[1] else "/", path)  # answered alike
        for pattern, method in (
            (r"POST /api/repos/create", self.create),
            (r"POST /api/validate-yaml", lambda: self.say({"errors": [], "warnings": []})),
            (r"GET /api/models/([^/]+/[^/]+)(?:/revision/([^/]+))?", self.info),
            (r"GET /api/models/([^/]+/[^/]+)/tree/([^/]+)(?:/(.*))?", self.tree),
            (r"GET /api/models/([^/]+/[^/]+)/refs", self.refs),
            (r"POST /api/models/([^/]+/[^/]+)/preupload/([^/]+)", self.preupload),
            (r"POST /([^/]+/[^/]+)\.git/info/lfs/objects/batch", self.batch),
            (r"PUT /objects/([0-9a-f]{64})", self.put),
            (r"GET /api/models/([^/]+/[^/]+)/xet-write-token/main", self.xet_token),
            (r"POST /v1/xorb-grants/default/([0-9a-f]{64})", self.grant),
            (r"PUT /xorbs/([0-9a-f]{64})", self.xorb),
            (r"POST /v1/xorb-commits/default/([0-9a-f]{64})/grant/.*", self.xorb_commit),
            (r"POST /v1/xorbs/default/([0-9a-f]{64})", lambda name: self.may_write_xet() and self.xorb(name)),
            (r"POST /v2/shards", self.shard),
            (r"POST /api/models/([^/]+/[^/]+)/commit/main", self.commit),
            (r"POST /api/models/([^/]+/[^/]+)/tag/([^/]+)", self.tag),
            (r"(?:HEAD|GET) /([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self.resolve),
        ):
            if match := re.fullmatch(pattern, f"{self.command} {path}"):
                method(*match.groups())
                return
        self.refuse(404, "no such address")

    def say(self, content=None, status=200, body=None, **headers):
        body = json.dumps(content).encode() if body is None else body
        self.send_response(status)
        headers = {"Content-Type": "application/json", "Content-Length": len(body)} | headers
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def refuse(self, status: int, message: str, code: str | None = None):
        self.say({"error": message}, status, **({"X_Error_Code": code} if code else {}), X_Error_Message=message)

    def may_write(self, name: str) -> bool:
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.refuse(401, "Invalid credentials in Authorization header")
        elif name.split("/")[0] != NAMESPACE:
            self.refuse(403, f"You don't have the rights to write under {name.split('/')[0]}")
        else:
            return True
        return False

    def find(self, name: str) -> Repository | None:
        repository = self.hub.repositories.get(name)
        if repository and repository.private and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            repository = None
        if repository is None:
            self.refuse(401, "Repository not found", "RepoNotFound")
        return repository

    def create(self):
        asked = json.loads(self.body)
        name = f"{asked.get('organization') or NAMESPACE}/{asked['name']}"
        if not self.may_write(name):
            return
        exists = name in self.hub.repositories
        if not exists:
            private = asked.get("visibility") == "private" or bool(asked.get("private"))
            self.hub.repositories[name] = Repository(private)
            self.hub.repositories[name].commit("initial commit", {".gitattributes": b"*.safetensors filter=lfs\n"})
        self.say({"url": f"{self.hub.endpoint}/{name}"}, 409 if exists else 200)

    def info(self, name, revision):
        if repository := self.find(name):
            commit = repository.at(revision or "main")
            siblings = [{"rfilename": path} for path in commit.files]
            self.say({"id": name, "sha": commit.oid, "private": repository.private, "siblings": siblings})

    def tree(self, name, revision, under):
        if not (repository := self.find(name)):
            return
        entries = []
        for path, content in repository.at(revision).files.items():
            if under and not path.startswith(f"{under}/"):
                continue
            entry = {"type": "file", "path": path, "size": len(content), "oid": blob_id(content)}
            if is_large(path):
                entry["lfs"] = {"oid": sha256(content), "size": len(content), "pointerSize": 134}
            entries.append(entry)
        if under and not entries:
            self.refuse(404, "no such folder", "EntryNotFound")
        else:
            self.say(entries)

    def refs(self, name):
        if repository := self.find(name):
            tags = [{"name": n, "ref": f"refs/tags/{n}", "targetCommit": oid} for n, oid in repository.tags.items()]
            main = {"name": "main", "ref": "refs/heads/main", "targetCommit": repository.commits[-1].oid}
            self.say({"branches": [main], "converts": [], "tags": tags})

    def preupload(self, name, revision):
        if not self.may_write(name) or not (repository := self.find(name)):
            return
        there, files = repository.at(revision).files, []
        for asked in json.loads(self.body)["files"]:
            path, large = asked["path"], is_large(asked["path"])
            oid = (sha256 if large else blob_id)(there[path]) if path in there else None
            mode = "lfs" if large else "regular"
            files.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self.say({"files": files})

    def batch(self, name):
        if not self.may_write(name):
            return
        objects = []
        for asked in json.loads(self.body)["objects"]:
            href = {"upload": {"href": f"{self.hub.endpoint}/objects/{asked['oid']}"}}
            objects.append(asked | ({} if asked["oid"] in self.hub.objects else {"actions": href}))
        self.say({"transfer": "basic", "objects": objects})

    def put(self, oid):
        assert sha256(self.body) == oid
        self.hub.objects[oid] = self.body
        self.say({})

    def xet_token(self, name):
        if self.may_write(name):
            self.say({"casUrl": self.hub.endpoint, "accessToken": XET_TOKEN, "exp": int(time.time()) + 3600})

    def may_write_xet(self) -> bool:
        allowed = self.headers.get("Authorization") == f"Bearer {XET_TOKEN}"
        if not allowed:
            self.refuse(401, "Invalid token of Xet")
        return allowed

    def grant(self, name):
        if self.may_write_xet():
            address = f"{self.hub.endpoint}/xorbs/{name}"
            self.say({"id": "1", "method": "PUT", "url": address, "headers": {}}, 201)

    def xorb(self, name):
        self.hub.xorbs[name] = chunks_of(self.body)
        self.say({"was_inserted": True})

    def xorb_commit(self, name):
        if self.may_write_xet():
            self.say({"was_inserted": True}, 200 if name in self.hub.xorbs else 404)

    def shard(self):
        if self.may_write_xet():
            self.hub.objects |= {sha256(content): content for content in files_of(self.body, self.hub.xorbs)}
            self.say({"type": "result"})

    def commit(self, name):
        if not self.may_write(name) or not (repository := self.find(name)):
            return
        files, message = dict(repository.commits[-1].files), ""
        for line in self.body.splitlines():
            key, value = (item := json.loads(line))["key"], item["value"]
            if key == "header":
                message = value["summary"]
            elif key == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                files[value["path"]] = self.hub.objects[value["oid"]]
            elif key == "deletedFile":
                del files[value["path"]]
        oid = repository.commit(message, files).oid
        self.say({"success": True, "commitOid": oid, "commitUrl": f"{self.hub.endpoint}/{name}/commit/{oid}"})

    def tag(self, name, revision):
        if self.may_write(name) and (repository := self.find(name)):
            repository.tags[json.loads(self.body)["tag"]] = repository.at(revision).oid
            self.say({})

    def resolve(self, name, revision, path):
        if not (repository := self.find(name)):
            return
        commit = repository.at(revision)
        if commit is None:
            self.refuse(404, "no such revision", "RevisionNotFound")
        elif path not in commit.files:
            self.refuse(404, "no such file", "EntryNotFound")
        else:
            content = commit.files[path]
            etag = f'"{(sha256 if is_large(path) else blob_id)(content)}"'
            self.say(body=content, Content_Type="application/octet-stream", ETag=etag, X_Repo_Commit=commit.oid)


def pushed_files(hub: FakeHub, number: int = -1) -> dict[str, bytes]:
    return hub.repositories[REPOSITORY].commits[number].files
