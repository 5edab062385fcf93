#!/usr/bin/env python3
"""A Hugging Face Hub of a folder, for tests: models only, and only what downloads need of it.

    python3 stub_hub.py ROOT [--tls CERTIFICATE KEY]

ROOT/<owner>/<name>/<revision>/<files>, a slash in a revision written "%2F". ROOT/<owner>/<name>/.repo.json says what is special:
{"private": true, "gated": true, "token": "hf_x", "page": 7}, the last how many entries a page of the file list has. Prints where the
hub, its storage and a proxy listen, as a line of JSON, and ends with its standard input. Files may change meanwhile.

GET /_stub/log on the hub lists the requests since POST /_stub/reset; POST /_stub/rules says what to do otherwise than a Hub would:
a list of {"server", "method", "path": regex, "skip": N, "times": N, "do": {…}}, of which the first that matches counts. "do" may have
  status, headers, body, json, redirect   what to answer; headers alone change the usual answer's, null takes one out
  wait                                    seconds before the answer
  cut_after, bytes_per_second             how the body comes
  flip_byte, ignore_range                 what is wrong with a file
"""
import argparse
import hashlib
import http.client
import json
import os
import re
import select
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.request
from dataclasses import dataclass, field
from http import HTTPStatus
from urllib.parse import parse_qs, quote, unquote, urlencode, urlsplit

LFS_SUFFIXES = (".safetensors", ".bin", ".ckpt", ".pt", ".model", ".gguf")
LFS_SIZE = 1 << 20  # larger files are LFS whatever their name
PIECE = 1 << 18
SENDFILE_PIECE = 1 << 20
SMALL = 1 << 16  # goes out with the headers
YOUNG = 50_000_000  # ns: a file changed so lately may change again without a new time stamp


# ---- Repositories ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Digest:
    size: int
    oid: str  # git's name of the blob; of an LFS file, of what points to it
    sha256: str | None  # of LFS files
    pointer_size: int = 0


@dataclass(frozen=True)
class Commit:
    id: str
    folder: str
    files: dict  # path: Digest


def git_blob(size):
    return hashlib.sha1(b"blob %d\0" % size)


def read_into(path, hasher):
    buffer = bytearray(PIECE)
    with open(path, "rb", buffering=0) as file:
        while count := file.readinto(buffer):
            hasher.update(memoryview(buffer)[:count])
    return hasher.hexdigest()


def mark(info):
    """What changes when a file does."""
    return info.st_mtime_ns, info.st_size, info.st_ino


def is_old(info):
    return time.time_ns() - info.st_mtime_ns > YOUNG


def walk(folder, prefix=""):
    """(path, stat) of all files below, in no order."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                yield from walk(entry.path, f"{prefix}{entry.name}/")
            else:
                yield prefix + entry.name, entry.stat()


class Repositories:
    def __init__(self, root):
        self.root = root
        self.lock = threading.Lock()  # also so that no file is read by two threads for its digest
        self.digests = {}  # path: (mark, Digest)
        self.blobs = {}  # sha256: paths
        self.trees = {}  # folder: (fingerprint, Commit)
        self.commits = {}  # (repo_id, id): Commit
        self.settings = {}  # repo_id: (mark, settings)

    def digest(self, path, info=None):
        info = info or os.stat(path)
        kept = self.digests.get(path)
        if kept and kept[0] == mark(info):
            return kept[1]
        size = info.st_size
        if path.endswith(LFS_SUFFIXES) or size > LFS_SIZE:
            sha256 = read_into(path, hashlib.sha256())
            pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()
            oid = git_blob(len(pointer))
            oid.update(pointer)
            digest = Digest(size, oid.hexdigest(), sha256, len(pointer))
            self.blobs.setdefault(sha256, set()).add(path)
        else:
            digest = Digest(size, read_into(path, git_blob(size)), None)
        if is_old(info):
            self.digests[path] = mark(info), digest
        return digest

    def blob(self, sha256):
        """A file with these bytes."""
        with self.lock:
            there = (path for path in self.blobs.get(sha256, ()) if os.path.exists(path))
            return next((path for path in there if self.digest(path).sha256 == sha256), None)

    def exists(self, repo_id):
        return not {"", ".", ".."} & set(repo_id.split("/")) and os.path.isdir(f"{self.root}/{repo_id}")

    def setting(self, repo_id, name, otherwise=None):
        path = f"{self.root}/{repo_id}/.repo.json"
        try:
            now = mark(os.stat(path))
        except FileNotFoundError:
            return otherwise
        kept = self.settings.get(repo_id)
        if not kept or kept[0] != now:
            with open(path) as file:
                kept = self.settings[repo_id] = now, json.load(file)
        return kept[1].get(name, otherwise)

    def commit_at(self, repo_id, folder):
        """The commit that a revision's folder is now."""
        found = sorted(walk(folder), key=lambda each: each[0])
        fingerprint = [(path, *mark(info)) for path, info in found]
        kept = self.trees.get(folder)
        if kept and kept[0] == fingerprint:
            return kept[1]
        files = {path: self.digest(f"{folder}/{path}", info) for path, info in found}
        listed = "\n".join(f"{path}\0{digest.oid}" for path, digest in files.items())
        commit = Commit(hashlib.sha1(os.fsencode(listed)).hexdigest(), folder, files)
        if all(is_old(info) for _, info in found):
            self.trees[folder] = fingerprint, commit
        self.commits[repo_id, commit.id] = commit
        return commit

    def commit(self, repo_id, revision, file=None):
        """By name or by id; where only one file of a commit is asked for, the others are not looked at."""
        with self.lock:
            known = self.commits.get((repo_id, revision))
            if known and file is not None and self.still_has(known, file):
                return known
            repo = f"{self.root}/{repo_id}"
            revisions = [name for name in os.listdir(repo) if os.path.isdir(f"{repo}/{name}")]
            name = revision.replace("/", "%2F")
            if name in revisions:
                return self.commit_at(repo_id, f"{repo}/{name}")
            if re.fullmatch("[0-9a-f]{40}", revision):
                commits = (self.commit_at(repo_id, f"{repo}/{name}") for name in revisions)
                return next((commit for commit in commits if commit.id == revision), None)
            return None

    def still_has(self, commit, file):
        listed = commit.files.get(file)
        if listed is None:
            return os.path.isdir(commit.folder)
        path = f"{commit.folder}/{file}"
        return os.path.isfile(path) and self.digest(path) == listed


# ---- HTTP ------------------------------------------------------------------------------------------------------------


@dataclass
class Request:
    method: str
    target: str  # as it came
    headers: dict  # names in lower case
    body: bytes
    entry: dict  # of the log

    def __post_init__(self):
        path, _, query = self.target.partition("?")
        self.path, self.query = path, parse_qs(query)


@dataclass
class Part:
    """Of a file."""

    path: str
    start: int
    length: int
    flip: int | None = None  # the byte of the file that is wrong

    def pieces(self, size):
        with open(self.path, "rb", buffering=0) as file:
            file.seek(self.start)
            left, at = self.length, self.start
            while left and (piece := file.read(min(size, left))):
                if self.flip is not None and at <= self.flip < at + len(piece):
                    i = self.flip - at
                    piece = piece[:i] + bytes([piece[i] ^ 0xFF]) + piece[i + 1 :]
                yield piece
                left, at = left - len(piece), at + len(piece)


@dataclass
class Stream:
    """What another server sends."""

    response: http.client.HTTPResponse
    length: int

    def pieces(self, size):
        while piece := self.response.read1(size):
            yield piece


@dataclass
class Answer:
    status: int
    headers: dict = field(default_factory=dict)
    body: bytes | Part | Stream = b""

    def length(self):
        return len(self.body) if isinstance(self.body, bytes) else self.body.length

    def pieces(self, size):
        if not isinstance(self.body, bytes):
            return self.body.pieces(size)
        return (self.body[i : i + size] for i in range(0, len(self.body), size))


def json_answer(value, status=200, headers=None):
    headers = {"Content-Type": "application/json; charset=utf-8", **(headers or {})}
    return Answer(status, headers, json.dumps(value).encode())


def refusal(status, code, message, headers=None):
    """As the Hub says no."""
    return json_answer({"error": message}, status, {"X-Error-Code": code, "X-Error-Message": message, **(headers or {})})


def file_answer(request, path, headers, do):
    size = os.path.getsize(path)
    headers = {"Accept-Ranges": "bytes", **headers}
    flip = do.get("flip_byte")
    asked = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("range", ""))
    if not asked or do.get("ignore_range") or request.headers.get("if-range", headers["ETag"]) != headers["ETag"]:
        return Answer(200, headers, Part(path, 0, size, flip))
    start, end = int(asked[1]), min(int(asked[2] or size), size - 1)
    if start >= size or start > end:
        return Answer(416, {**headers, "Content-Range": f"bytes */{size}"})
    headers["Content-Range"] = f"bytes {start}-{end}/{size}"
    return Answer(206, headers, Part(path, start, end - start + 1, flip))


def with_rule(answer, do):
    """The answer as a rule wants it."""
    headers = do.get("headers", {})
    if "redirect" in do:
        answer = Answer(302, {"Location": do["redirect"]})
    elif "json" in do:
        answer = json_answer(do["json"], do.get("status", 200))
    elif "body" in do or "status" in do:
        body = do.get("body", "").encode()
        answer = Answer(do.get("status", 200), {"Content-Type": "text/plain; charset=utf-8"}, body)
    if headers:
        named = {name.lower() for name in headers}
        kept = {name: value for name, value in answer.headers.items() if name.lower() not in named}
        answer.headers = {**kept, **{name: value for name, value in headers.items() if value is not None}}
    return answer


REASONS = {status.value: status.phrase for status in HTTPStatus}


def head_bytes(answer):
    lines = [f"HTTP/1.1 {answer.status} {REASONS.get(answer.status, 'Other')}"]
    lines += [f"{name}: {value}" for name, value in answer.headers.items()]
    if not any(name.lower() == "content-length" for name in answer.headers):
        lines.append(f"Content-Length: {answer.length()}")
    text = "\r\n".join(lines) + "\r\n\r\n"
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:
        return text.encode()


class Connection:
    """One client's, from its first request to its last."""

    def __init__(self, server, sock):
        self.server, self.sock, self.buffer = server, sock, b""

    def run(self):
        try:
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self.server.tls:
                self.sock = self.server.tls.wrap_socket(self.sock, server_side=True)
            while self.serve_one():
                pass
        except OSError:
            pass  # the client went away
        finally:
            self.sock.close()

    def read_request(self):
        while (end := self.buffer.find(b"\r\n\r\n")) < 0:
            if not (more := self.sock.recv(1 << 16)):
                return None
            self.buffer += more
        first, *lines = self.buffer[:end].decode("latin-1").split("\r\n")
        self.buffer = self.buffer[end + 4 :]
        method, target, _ = first.split(" ")
        headers = {}
        for line in lines:
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        if headers.get("expect") == "100-continue":
            self.sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        length = int(headers.get("content-length", 0))
        while len(self.buffer) < length:
            if not (more := self.sock.recv(1 << 16)):
                return None
            self.buffer += more
        body, self.buffer = self.buffer[:length], self.buffer[length:]
        entry = {"server": self.server.name, "method": method, "path": target, "headers": headers}
        return Request(method, target, headers, body, entry | {"status": 0, "sent": 0})

    def serve_one(self):
        """Whether the connection goes on."""
        request = self.read_request()
        if request is None:
            return False
        if self.server.name == "hub" and request.path.startswith("/_stub/"):
            return self.send(request, self.server.control.answer(request), {})
        do = self.server.control.note(request)
        if "wait" in do:
            time.sleep(do["wait"])
        if request.method == "CONNECT" and "status" not in do:
            return self.tunnel(request)
        answers = {"status", "body", "json", "redirect"} & do.keys()
        return self.send(request, with_rule(None if answers else self.server.answer(request, do), do), do)

    def send(self, request, answer, do):
        entry, body, length = request.entry, answer.body, answer.length()
        head = head_bytes(answer)
        entry["status"] = answer.status
        if request.method == "HEAD" or not length:
            self.sock.sendall(head)
        elif "cut_after" in do or "bytes_per_second" in do:
            self.sock.sendall(head)
            if not self.send_badly(entry, answer, do):
                return False
        elif length <= SMALL:
            if not isinstance(body, bytes):
                body = b"".join(body.pieces(SMALL))
            entry["sent"] = len(body)  # before the client has it, who might look
            self.sock.sendall(head + body)
        elif isinstance(body, Part) and body.flip is None and not self.server.tls:
            self.sock.sendall(head, socket.MSG_MORE)
            self.send_file(entry, body)
        else:
            self.sock.sendall(head)
            for piece in answer.pieces(PIECE):
                self.send_piece(entry, piece)
            if entry["sent"] < length:
                return False  # where the proxy's source broke off
        return request.headers.get("connection", "").lower() != "close"

    def send_piece(self, entry, piece):
        entry["sent"] += len(piece)
        self.sock.sendall(piece)

    def send_file(self, entry, part):
        file = os.open(part.path, os.O_RDONLY)
        try:
            at, end = part.start, part.start + part.length
            while at < end:
                count = min(SENDFILE_PIECE, end - at)
                entry["sent"] += count
                done = os.sendfile(self.sock.fileno(), file, at, count)
                entry["sent"] -= count - done
                at += done
                if not done:
                    raise OSError("the file became shorter")
        finally:
            os.close(file)

    def send_badly(self, entry, answer, do):
        """Slowly, or not to the end. Whether all was sent."""
        left, rate = do.get("cut_after", answer.length()), do.get("bytes_per_second")
        size = max(1, min(PIECE, rate // 50)) if rate else PIECE
        due = time.monotonic()
        for piece in answer.pieces(size):
            piece = piece[:left]
            if rate:
                due += len(piece) / rate
                time.sleep(max(0, due - time.monotonic()))
            self.send_piece(entry, piece)
            left -= len(piece)
            if left <= 0:
                break
        return "cut_after" not in do

    def tunnel(self, request):
        host, _, port = request.target.rpartition(":")
        try:
            other = socket.create_connection((host, int(port)))
        except OSError as error:
            return self.send(request, Answer(502, {}, str(error).encode()), {})
        request.entry["status"] = 200
        with other:
            other.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.sock.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            other.sendall(self.buffer)
            while True:
                for ready in select.select([self.sock, other], [], [])[0]:
                    if not (piece := ready.recv(PIECE)):
                        return False
                    if ready is other:
                        self.send_piece(request.entry, piece)
                    else:
                        other.sendall(piece)


class Server:
    def __init__(self, name, control, tls=None):
        self.name, self.control, self.tls = name, control, tls
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        port = self.listener.getsockname()[1]
        self.url = f"https://localhost:{port}" if tls else f"http://127.0.0.1:{port}"

    def start(self):
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            sock, _ = self.listener.accept()
            threading.Thread(target=Connection(self, sock).run, daemon=True).start()


# ---- The servers -----------------------------------------------------------------------------------------------------


class Control:
    """The log, and the rules."""

    def __init__(self):
        self.lock, self.log, self.rules = threading.Lock(), [], []

    def note(self, request):
        """What to do otherwise with the request."""
        with self.lock:
            self.log.append(request.entry)
            for rule in self.rules:
                if self.applies(rule, request):
                    return rule["do"]
        return {}

    def applies(self, rule, request):
        if rule.get("server", request.entry["server"]) != request.entry["server"]:
            return False
        if rule.get("method", request.method) != request.method or not re.search(rule.get("path", ""), request.target):
            return False
        if rule.get("skip", 0) > 0:
            rule["skip"] -= 1
            return False
        rule["times"] = rule.get("times", sys.maxsize) - 1
        return rule["times"] >= 0

    def answer(self, request):
        with self.lock:
            if request.path == "/_stub/log":
                return json_answer(self.log)
            if request.path == "/_stub/reset":
                self.log, self.rules = [], []
                return json_answer({})
            if request.path == "/_stub/rules":
                self.rules = json.loads(request.body)
                return json_answer({})
        return json_answer({"error": "the stub has log, reset and rules"}, 404)


class Hub(Server):
    def __init__(self, repositories, storage, control, tls):
        super().__init__("hub", control, tls)
        self.repositories, self.storage = repositories, storage

    def answer(self, request, do):
        if request.method not in ("GET", "HEAD"):
            return refusal(405, "MethodNotAllowed", "Method not allowed")
        parts = [unquote(part) for part in request.path.split("/")[1:]]
        if len(parts) >= 5 and parts[2] == "resolve":
            return self.resolve(request, "/".join(parts[:2]), parts[3], "/".join(parts[4:]), do)
        if len(parts) >= 4 and parts[:2] == ["api", "models"]:
            repo_id, what, revision = "/".join(parts[2:4]), parts[4:5], "/".join(parts[5:])
            if not what:
                return self.info(request, repo_id, "main")
            if what == ["revision"]:
                return self.info(request, repo_id, revision)
            if what == ["tree"]:
                return self.tree(request, repo_id, revision)
        return refusal(404, "NotFound", "Sorry, we can't find the page you are looking for.")

    def has_token(self, request, repo_id):
        token = self.repositories.setting(repo_id, "token")
        return token is not None and request.headers.get("authorization") == f"Bearer {token}"

    def refused(self, request, repo_id):
        """No such repository, or none that the client may know of."""
        if not self.repositories.exists(repo_id):
            return refusal(404 if "authorization" in request.headers else 401, "RepoNotFound", "Repository not found")
        if self.repositories.setting(repo_id, "private") and not self.has_token(request, repo_id):
            return refusal(401, "RepoNotFound", "Repository not found")
        return None

    def no_revision(self, revision):
        return refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")

    def resolve(self, request, repo_id, revision, file, do):
        if no := self.refused(request, repo_id):
            return no
        if self.repositories.setting(repo_id, "gated") and not self.has_token(request, repo_id):
            status = 403 if "authorization" in request.headers else 401
            return refusal(status, "GatedRepo", f"Access to model {repo_id} is restricted.")
        commit = self.repositories.commit(repo_id, revision, file)
        if commit is None:
            return self.no_revision(revision)
        digest = commit.files.get(file)
        headers = {"X-Repo-Commit": commit.id}
        if digest is None:
            return refusal(404, "EntryNotFound", "Entry not found", headers)
        headers |= {"ETag": f'"{digest.oid}"', "Content-Type": "text/plain; charset=utf-8"}
        if digest.sha256 is None:
            return file_answer(request, f"{commit.folder}/{file}", headers, do)
        there = f"/blob/{digest.sha256}?X-Amz-Signature=secret-signature&file={quote(file, safe='')}"
        headers |= {"X-Linked-Etag": f'"{digest.sha256}"', "X-Linked-Size": str(digest.size)}
        headers["Location"] = self.storage.url + there
        return Answer(302, headers, f"Found. Redirecting to {there}".encode())

    def info(self, request, repo_id, revision):
        if no := self.refused(request, repo_id):
            return no
        commit = self.repositories.commit(repo_id, revision)
        if commit is None:
            return self.no_revision(revision)
        setting = lambda name: bool(self.repositories.setting(repo_id, name))
        return json_answer(
            {
                "_id": "0" * 24,
                "id": repo_id,
                "modelId": repo_id,
                "author": repo_id.split("/")[0],
                "sha": commit.id,
                "lastModified": "2026-01-01T00:00:00.000Z",
                "createdAt": "2026-01-01T00:00:00.000Z",
                "private": setting("private"),
                "gated": "manual" if setting("gated") else False,
                "disabled": False,
                "tags": [],
                "downloads": 0,
                "likes": 0,
                "siblings": [{"rfilename": path} for path in commit.files],
            }
        )

    def tree(self, request, repo_id, revision):
        if no := self.refused(request, repo_id):
            return no
        commit = self.repositories.commit(repo_id, revision)
        if commit is None:
            return self.no_revision(revision)
        entries = tree_entries(commit)
        if request.query.get("recursive") != ["true"]:
            entries = [entry for entry in entries if "/" not in entry["path"]]
        page = self.repositories.setting(repo_id, "page", 1000)
        start = int(request.query.get("cursor", ["0"])[0])
        headers = {}
        if start + page < len(entries):
            query = urlencode({**request.query, "cursor": start + page}, doseq=True)
            headers["Link"] = f'<{self.url}{request.path}?{query}>; rel="next"'
        return json_answer(entries[start : start + page], headers=headers)


def tree_entries(commit):
    """As the Hub lists a commit, all folders before all files."""
    folders = {path[:i] for path in commit.files for i, c in enumerate(path) if c == "/"}
    entries = []
    for path in sorted(folders):
        oid = hashlib.sha1(f"{commit.id}/{path}".encode()).hexdigest()
        entries.append({"type": "directory", "oid": oid, "size": 0, "path": path})
    for path, digest in commit.files.items():
        entry = {"type": "file", "oid": digest.oid, "size": digest.size, "path": path}
        if digest.sha256:
            entry["lfs"] = {"oid": digest.sha256, "size": digest.size, "pointerSize": digest.pointer_size}
        entries.append(entry)
    return entries


class Storage(Server):
    def __init__(self, repositories, control, tls):
        super().__init__("storage", control, tls)
        self.repositories = repositories

    def answer(self, request, do):
        if "authorization" in request.headers:
            return Answer(400, {}, b"<Error><Message>Only one auth mechanism allowed</Message></Error>")
        sha256 = request.path.removeprefix("/blob/")
        path = self.repositories.blob(sha256)
        if path is None or request.method not in ("GET", "HEAD"):
            return Answer(404, {}, b"<Error><Code>NoSuchKey</Code></Error>")
        etag = hashlib.md5(sha256.encode()).hexdigest()  # no digest of the file that a client knows
        return file_answer(request, path, {"ETag": f'"{etag}"', "Content-Type": "application/octet-stream"}, do)


class Proxy(Server):
    def __init__(self, control):
        super().__init__("proxy", control)

    def answer(self, request, do):
        there = urlsplit(request.target)
        if there.scheme != "http":
            return Answer(400, {}, b"only http:// and CONNECT")
        target = there._replace(scheme="", netloc="").geturl()
        try:
            connection = http.client.HTTPConnection(there.hostname, there.port or 80)
            connection.putrequest(request.method, target or "/", skip_host=True, skip_accept_encoding=True)
            for name, value in request.headers.items():
                if name not in ("connection", "proxy-connection", "proxy-authorization"):
                    connection.putheader(name, value)
            connection.endheaders(request.body or None)
            response = connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            return Answer(502, {}, str(error).encode())
        own = "connection", "transfer-encoding"
        headers = {name: value for name, value in response.getheaders() if name.lower() not in own}
        length = response.getheader("Content-Length")
        body = response.read() if length is None else Stream(response, int(length))
        return Answer(response.status, headers, body)


class Stub:
    """The stub in a process of its own, for other scripts."""

    def __init__(self, root):
        command = [sys.executable, os.path.abspath(__file__), str(root)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        ready = json.loads(self.process.stdout.readline())
        self.endpoint, self.storage, self.proxy = ready["endpoint"], ready["storage"], ready["proxy"]
        self.opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def stop(self):
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()

    def ask(self, path, body=None):
        with self.opener.open(self.endpoint + path, body) as answer:
            return json.load(answer)

    def rules(self, *rules):
        self.ask("/_stub/rules", json.dumps(rules).encode())

    def reset(self):
        self.ask("/_stub/reset", b"")

    def log(self):
        return self.ask("/_stub/log")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root")
    parser.add_argument("--tls", nargs=2, metavar=("CERTIFICATE", "KEY"))
    args = parser.parse_args()
    tls = None
    if args.tls:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(*args.tls)
    control, repositories = Control(), Repositories(os.path.abspath(args.root))
    storage = Storage(repositories, control, tls)
    hub, proxy = Hub(repositories, storage, control, tls), Proxy(control)
    for server in (hub, storage, proxy):
        server.start()
    print(json.dumps({"endpoint": hub.url, "storage": storage.url, "proxy": proxy.url}), flush=True)
    while sys.stdin.buffer.read(1 << 16):
        pass
    os._exit(0)  # whatever the connections are at


if __name__ == "__main__":
    main()
