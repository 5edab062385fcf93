#!/usr/bin/env python3
"""The cache that `lora download` writes, against huggingface_hub's own: the same tree, and each at home in the other's.

    build/venv/bin/python tests/live/live_hub.py LORA_COMMAND [NAME…]

With names, only the checks that begin with one of them. Both programs talk to tests/hub/stub_hub.py, each with an
HF_HOME of its own. "The same tree" means: below HF_HOME the same relative paths and nothing else; the same kind of each
(folder, file, symbolic link), the same text in each link, the same bytes in each file, the same permission bits of
files and folders, but for those of trees/*.json. Times are not compared.
"""
import hashlib
import json
import os
import random
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "hub"))
from stub_hub import Stub

PINNED = "2.4.0"
REPO = "owner/model"
REVISIONS = "main", "v1", "refs/pr/1"
BIG = 50_000_000
PATIENCE = 120  # seconds that anything may take


# ---- The two programs ------------------------------------------------------------------------------------------------

# A call of huggingface_hub's: [name, positional, named] in, what it returned or the error's name out.
CALL = """
import json, sys
import huggingface_hub
for name, positional, named in json.loads(sys.argv[1]):
    try:
        print(json.dumps({"value": getattr(huggingface_hub, name)(*positional, **named)}))
    except Exception as error:
        print(json.dumps({"error": type(error).__name__, "message": str(error)}))
"""

# What it may be asked by a line on stdin, once it is ready: an import takes longer than a download.
LOCK = """
import sys
from pathlib import Path
from filelock import Timeout
from huggingface_hub.utils import WeakFileLock
Path(sys.argv[1]).parent.mkdir(parents=True, exist_ok=True)
print("ready", flush=True)
sys.stdin.readline()
try:
    with WeakFileLock(sys.argv[1], timeout=float(sys.argv[2])):
        print("held", flush=True)
        sys.stdin.readline()
except Timeout:
    print("timeout", flush=True)
"""

DOWNLOAD = """
import sys
from huggingface_hub import hf_hub_download
print("ready", flush=True)
sys.stdin.readline()
print(hf_hub_download(sys.argv[1], sys.argv[2]), flush=True)
"""

SCAN = """
import json
from huggingface_hub import scan_cache_dir
info = scan_cache_dir()
by = lambda name: lambda each: each[name]
print(json.dumps({
    "warnings": [str(warning) for warning in info.warnings],
    "size_on_disk": info.size_on_disk,
    "repos": sorted(({
        "repo_id": repo.repo_id,
        "repo_type": repo.repo_type,
        "size_on_disk": repo.size_on_disk,
        "nb_files": repo.nb_files,
        "revisions": sorted(({
            "commit_hash": revision.commit_hash,
            "refs": sorted(revision.refs),
            "size_on_disk": revision.size_on_disk,
            "nb_files": revision.nb_files,
        } for revision in repo.revisions), key=by("commit_hash")),
    } for repo in info.repos), key=by("repo_id")),
}))
"""


class Home:
    """An HF_HOME, and both programs in it."""

    def __init__(self, endpoint, folder):
        self.endpoint, self.path = endpoint, folder
        self.cache = folder / "hub"
        folder.mkdir()

    def environment(self, offline=False):
        ours = "HF_", "HUGGING", "TRANSFORMERS_", "XDG_"
        own = lambda name: name.startswith(ours) or "proxy" in name.lower()
        kept = {name: value for name, value in os.environ.items() if not own(name)}
        kept |= {"HF_ENDPOINT": self.endpoint, "HF_HOME": str(self.path), "HF_HUB_DISABLE_XET": "1"}
        kept |= {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
        return kept | ({"HF_HUB_OFFLINE": "1"} if offline else {})

    def start(self, *command):
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        return subprocess.Popen([*map(str, command)], env=self.environment(), text=True, **pipes)

    def start_python(self, code, *arguments):
        """A process of LOCK or DOWNLOAD that waits for its line."""
        process = self.start(sys.executable, "-c", code, *arguments)
        expect(process.stdout.readline() == "ready\n", process)
        return process

    def start_lora(self, *arguments):
        return self.start(LORA, *arguments)

    def calls(self, *calls, offline=False):
        """What huggingface_hub's functions return, each [name, positional, named]; one process for all."""
        command = [sys.executable, "-c", CALL, json.dumps(calls)]
        done = subprocess.run(command, env=self.environment(offline), capture_output=True, text=True, timeout=PATIENCE)
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    def python(self, name, *positional, offline=False, **named):
        (answer,) = self.calls([name, positional, named], offline=offline)
        assert "value" in answer, f"huggingface_hub: {answer}"
        return Path(answer["value"])

    def run_lora(self, *arguments, offline=False):
        command = [LORA, *map(str, arguments)]
        return subprocess.run(command, env=self.environment(offline), capture_output=True, text=True, timeout=PATIENCE)

    def lora(self, *arguments, offline=False):
        """The path that it prints."""
        done = self.run_lora("download", *arguments, offline=offline)
        shown = " ".join(map(str, arguments))
        assert done.returncode == 0, f"lora download {shown}: exit code {done.returncode}: {done.stderr}"
        assert done.stdout.count("\n") == 1, f"lora download {shown}: not one line: {done.stdout!r}"
        return Path(done.stdout.removesuffix("\n"))

    def storage(self, repo):
        return self.cache / ("models--" + repo.replace("/", "--"))

    def lock(self, repo, etag):
        return self.cache / ".locks" / self.storage(repo).name / f"{etag}.lock"


def expect(good, process):
    if not good:
        process.kill()
        raise AssertionError(f"{process.args[0]}: {process.communicate()[1]}")


def finish(process):
    """What it printed; its exit code must be 0."""
    try:
        out, error = process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        raise AssertionError(f"{process.args[0]} does not end") from None
    assert process.returncode == 0, f"{process.args[0]}: exit code {process.returncode}: {error}"
    return out


def tell(process):
    """Gives it the line that it waits for."""
    process.stdin.write("\n")
    process.stdin.flush()


# ---- Trees -----------------------------------------------------------------------------------------------------------


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def described(path):
    info = path.lstat()
    if stat.S_ISLNK(info.st_mode):
        return f"link to {os.readlink(path)}"
    mode = f"{stat.S_IMODE(info.st_mode):o}"
    if stat.S_ISDIR(info.st_mode):
        return f"folder {mode}"
    if path.parent.name == "trees":
        mode = "as it is"  # Python's are for their owner alone (mkstemp's), ours as readable as the rest of the cache
    shown = path.read_text(errors="replace") if info.st_size < 100 else ""
    return f"file {mode}, {info.st_size} bytes, {digest(path)} {shown!r}"


def tree(home):
    """Everything below, links not followed."""
    paths = (Path(at) / name for at, folders, files in os.walk(home.path) for name in folders + files)
    return {str(path.relative_to(home.path)): described(path) for path in paths}


def same_tree(theirs, ours):
    """How many entries there are."""
    wanted, got = tree(theirs), tree(ours)
    differences = [
        f"{path}: huggingface_hub {wanted.get(path, 'nothing')}; lora {got.get(path, 'nothing')}"
        for path in sorted(wanted.keys() | got.keys())
        if wanted.get(path) != got.get(path)
    ]
    assert not differences, f"{len(differences)} entries differ:\n    " + "\n    ".join(differences[:20])
    return len(wanted)


def same_place(theirs, their_path, ours, our_path):
    """Both printed the same path in their homes."""
    wanted, got = their_path.relative_to(theirs.path), our_path.relative_to(ours.path)
    assert wanted == got, f"huggingface_hub says {wanted}, lora says {got}"


# ---- What is on the Hub ----------------------------------------------------------------------------------------------


def random_bytes(name, size):
    return random.Random(name).randbytes(size)


class Workplace:
    """A Hub's folder and the stub on it; homes."""

    def __init__(self, folder):
        self.folder, self.count = folder, 0
        self.root = folder / "hub"
        self.root.mkdir()
        for revision in REVISIONS:
            self.fill(REPO, revision)
        # Pages, so that no list comes in one piece.
        (self.root / REPO / ".repo.json").write_text('{"page": 7}')
        self.write("owner/big", "main", "big.safetensors", random_bytes("big", BIG))
        self.write("owner/slow", "main", "slow.safetensors", random_bytes("slow", 3_000_000))
        self.stub = Stub(self.root)

    def write(self, repo, revision, file, content):
        path = self.root / repo / revision.replace("/", "%2F") / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    def fill(self, repo, revision):
        write = lambda file, content: self.write(repo, revision, file, content)
        write("README.md", f"# {revision}\n".encode())
        write("model_index.json", b'{"_class_name": "StableDiffusionPipeline"}\n')
        write("empty.txt", b"")
        write("large.txt", random_bytes("large", 1_200_000))  # LFS for its size
        for part in "unet", "vae", "text_encoder", "text_encoder_2":
            write(f"{part}/config.json", f'{{"part": "{part}"}}\n'.encode())
            write(f"{part}/model.safetensors", random_bytes(part + revision, 40_000))
        write("vae/again.safetensors", random_bytes("unet" + revision, 40_000))  # two names, one blob
        write("unet/deep/er/config.json", b"{}\n")
        for i in range(12):
            write(f"tokenizer/file{i}.txt", f"{i}\n".encode())
        for name in "a b.txt", "ü.json", "x#y.txt", "100%.txt", "a+b.txt", "%41.txt", "Zöe & co/w #%+.bin", ".hidden":
            write(name, f"{name}\n".encode())

    def home(self):
        self.count += 1
        return Home(self.stub.endpoint, self.folder / f"home{self.count}")

    def pair(self):
        return self.home(), self.home()

    def commit(self, repo, revision):
        return self.stub.ask(f"/api/models/{repo}/revision/{revision.replace('/', '%2F')}")["sha"]


# ---- Checks ----------------------------------------------------------------------------------------------------------

CHECKS = {}


def check(name):
    def add(function):
        CHECKS[name] = function
        return function

    return add


def flags(name, values):
    """--include A --include B"""
    return [word for value in values for word in (name, value)]


@check("whole snapshot")
def whole_snapshot(work):
    theirs, ours = work.pair()
    same_place(theirs, theirs.python("snapshot_download", REPO), ours, ours.lora(REPO))
    count = same_tree(theirs, ours)
    for part in "refs/main", "blobs", "snapshots", f"trees/{work.commit(REPO, 'main')}.json":
        assert (ours.storage(REPO) / part).exists(), f"{part} is not there"
    for path in ours.cache / "CACHEDIR.TAG", ours.cache / ".locks":
        assert path.exists(), f"{path.name} is not there"
    theirs.python("snapshot_download", REPO)
    ours.lora(REPO)
    assert same_tree(theirs, ours) == count, "a second download changes the cache"
    return f"{count} entries"


@check("snapshots of other revisions")
def other_revisions(work):
    theirs, ours = work.pair()
    for revision in "v1", "refs/pr/1", work.commit(REPO, "main"):
        their_path = theirs.python("snapshot_download", REPO, revision=revision)
        same_place(theirs, their_path, ours, ours.lora(REPO, "--revision", revision))
    return f"{same_tree(theirs, ours)} entries"


@check("single files")
def single_files(work):
    theirs, ours = work.pair()
    files = [
        ("README.md", None),
        ("unet/model.safetensors", None),
        ("vae/again.safetensors", None),  # the blob is there
        ("unet/deep/er/config.json", "v1"),
        ("large.txt", "refs/pr/1"),
        ("vae/model.safetensors", work.commit(REPO, "v1")),
        ("empty.txt", None),
        ("Zöe & co/w #%+.bin", None),
        ("%41.txt", None),
        ("README.md", None),
    ]
    for file, revision in files:
        their_path = theirs.python("hf_hub_download", REPO, file, revision=revision)
        same_place(theirs, their_path, ours, ours.lora(REPO, file, *(["--revision", revision] if revision else [])))
        count = same_tree(theirs, ours)
    return f"{len(files)} files, {count} entries"


@check("a cache directory of one's own")
def own_cache_dir(work):
    theirs, ours = work.pair()
    their_path = theirs.python("hf_hub_download", REPO, "README.md", cache_dir=str(theirs.path / "elsewhere"))
    same_place(theirs, their_path, ours, ours.lora(REPO, "README.md", "--cache-dir", ours.path / "elsewhere"))
    return f"{same_tree(theirs, ours)} entries"


@check("a forced download")
def forced(work):
    theirs, ours = work.pair()
    for home in theirs, ours:
        home.python("hf_hub_download", REPO, "unet/model.safetensors")
        (blob,) = (home.storage(REPO) / "blobs").iterdir()
        blob.write_bytes(b"spoiled")
    same_place(
        theirs,
        theirs.python("hf_hub_download", REPO, "unet/model.safetensors", force_download=True),
        ours,
        ours.lora(REPO, "unet/model.safetensors", "--force"),
    )
    assert digest(ours.storage(REPO) / "blobs" / blob.name) == blob.name, "the blob is still spoiled"
    return f"{same_tree(theirs, ours)} entries"


@check("a missing file")
def missing_file(work):
    theirs, ours = work.pair()
    (answer,) = theirs.calls(["hf_hub_download", [REPO, "unet/no such.json"], {}])
    assert answer.get("error") == "RemoteEntryNotFoundError", answer
    done = ours.run_lora("download", REPO, "unet/no such.json")
    assert done.returncode == 1 and not done.stdout, f"exit code {done.returncode}, {done.stdout!r}"
    assert "unet/no such.json" in done.stderr, f"the message names no file: {done.stderr}"
    count = same_tree(theirs, ours)
    note = ours.storage(REPO) / ".no_exist" / work.commit(REPO, "main") / "unet" / "no such.json"
    assert note.is_file(), f"{note} is not there"
    return f"{count} entries"


def unchanged(home, before, who):
    after = tree(home)
    changed = sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))
    assert not changed, f"{who} changed {changed[:5]}"


def without_network(work, download):
    """A home that `download` filled, whose Hub is gone since."""
    with Stub(work.root) as stub:
        work.count += 1
        home = Home(stub.endpoint, work.folder / f"home{work.count}")
        download(home)
    return home, tree(home)


FILE = "text_encoder/config.json"


@check("what Python downloaded, offline")
def lora_offline(work):
    def download(home):
        home.python("snapshot_download", REPO)
        home.python("hf_hub_download", REPO, FILE, revision="v1")

    home, before = without_network(work, download)
    snapshot = home.lora(REPO, offline=True)
    assert snapshot.parent.name == "snapshots" and (snapshot / FILE).is_file(), snapshot
    assert home.lora(REPO, FILE, offline=True) == snapshot / FILE
    assert home.lora(REPO, FILE, "--revision", "v1", offline=True).is_file()
    assert home.lora(REPO, FILE, "--revision", snapshot.name, offline=True) == snapshot / FILE
    done = home.run_lora("download", REPO, "unet/config.json", "--revision", "v1", offline=True)
    assert done.returncode == 1, "a file that is not in the cache is found"
    unchanged(home, before, "lora")
    return "snapshot, file, tag, commit"


@check("what lora downloaded, offline")
def python_offline(work):
    def download(home):
        home.lora(REPO)
        home.lora(REPO, FILE, "--revision", "v1")

    home, before = without_network(work, download)
    for named in {}, {"local_files_only": True}:
        snapshot = home.python("snapshot_download", REPO, offline=not named, **named)
        assert snapshot.parent.name == "snapshots" and (snapshot / FILE).is_file(), snapshot
        assert home.python("hf_hub_download", REPO, FILE, offline=not named, **named) == snapshot / FILE
        assert home.python("hf_hub_download", REPO, FILE, revision="v1", offline=not named, **named).is_file()
    unchanged(home, before, "huggingface_hub")
    return "snapshot, file, tag"


PATTERNS = [  # allowed, ignored
    (["*.json"], []),
    (["text_encoder/*"], []),
    (["unet/", "README.md"], []),
    (["[!a]*"], []),
    (["**/x", "**/config.json"], []),
    (["*.json", "*.safetensors"], ["vae/*", "text_encoder*"]),
    ([], ["*.safetensors", "*.txt", "unet/"]),
    (["?net/*", "tokenizer/file[0-3].txt", "tokenizer/file1[!0].txt"], ["**/deep/**"]),
    (["ü*", "*[#%+]*", ".*"], []),
    (["unet\\*.json"], []),
]


@check("patterns")
def patterns(work):
    theirs = [work.home() for _ in PATTERNS]
    calls = []
    for home, (allowed, ignored) in zip(theirs, PATTERNS):
        named = {"allow_patterns": allowed or None, "ignore_patterns": ignored or None, "cache_dir": str(home.cache)}
        calls.append(["snapshot_download", [REPO], named])
    answers = work.home().calls(*calls)
    counts, failures = [], []
    for (allowed, ignored), home, answer in zip(PATTERNS, theirs, answers):
        assert "value" in answer, f"huggingface_hub, {allowed} without {ignored}: {answer}"
        ours = work.home()
        try:
            our_path = ours.lora(REPO, *flags("--include", allowed), *flags("--exclude", ignored))
            same_place(home, Path(answer["value"]), ours, our_path)
            same_tree(home, ours)
        except AssertionError as error:
            failures.append(f"{allowed} without {ignored}: {error}")
        counts.append(sum(path.is_file() for path in Path(answer["value"]).rglob("*")))
    assert not failures, "\n  ".join(failures)
    assert min(counts) > 0, f"a set matches nothing: {counts}"
    return f"{len(PATTERNS)} sets, {', '.join(map(str, counts))} files"


@check("a new commit")
def new_commit(work):
    repo = "owner/moving"
    work.fill(repo, "main")
    theirs, ours = work.pair()
    before = theirs.python("snapshot_download", repo).name
    ours.lora(repo)
    work.write(repo, "main", "README.md", b"# changed\n")
    work.write(repo, "main", "unet/new.safetensors", random_bytes("new", 10_000))
    (work.root / repo / "main" / "empty.txt").unlink()
    after = theirs.python("snapshot_download", repo).name
    ours.lora(repo)
    assert before != after, "there is no new commit"
    count = same_tree(theirs, ours)
    storage = ours.storage(repo)
    assert (storage / "refs" / "main").read_text() == after, "the ref did not move"
    assert (storage / "snapshots" / before / "empty.txt").exists(), "the old snapshot is gone"
    assert not (storage / "snapshots" / after / "empty.txt").exists(), "the new snapshot has a file that is gone"
    return f"{count} entries"


@check("lora waits for Python's lock")
def lora_waits(work):
    home, content = work.home(), random_bytes("slow", 3_000_000)
    etag = hashlib.sha256(content).hexdigest()
    python = home.start_python(LOCK, home.lock("owner/slow", etag), 10)
    tell(python)
    expect(python.stdout.readline() == "held\n", python)
    lora = home.start_lora("download", "owner/slow", "slow.safetensors")
    time.sleep(1.5)
    expect(lora.poll() is None, lora)
    assert not (home.storage("owner/slow") / "blobs" / etag).exists(), "lora did not wait to write the blob"
    tell(python)
    finish(python)
    assert Path(finish(lora).strip()).read_bytes() == content
    return "and goes on when it is free"


@check("Python sees lora's lock")
def python_sees(work):
    home, content = work.home(), random_bytes("slow", 3_000_000)
    etag = hashlib.sha256(content).hexdigest()
    python = home.start_python(LOCK, home.lock("owner/slow", etag), 0.5)
    work.stub.rules({"server": "storage", "method": "GET", "do": {"bytes_per_second": 1_000_000}})
    lora = home.start_lora("download", "owner/slow", "slow.safetensors")
    until = time.monotonic() + PATIENCE
    while not any(request["server"] == "storage" for request in work.stub.log()):
        expect(lora.poll() is None and time.monotonic() < until, lora)
        time.sleep(0.05)
    tell(python)
    assert python.stdout.readline() == "timeout\n", "Python got the lock while lora was downloading"
    expect(lora.poll() is None, lora)
    finish(python)
    assert Path(finish(lora).strip()).read_bytes() == content
    with home.start_python(LOCK, home.lock("owner/slow", etag), 5) as python:
        tell(python)
        assert python.stdout.readline() == "held\n", "lora keeps the lock"
        tell(python)
    return "while it downloads"


@check("both at once")
def both_at_once(work):
    wanted = hashlib.sha256(random_bytes("big", BIG)).hexdigest()
    for first in "neither", "Python", "lora":
        home = work.home()
        work.stub.reset()
        # So slow that the second comes while the first is at it.
        work.stub.rules({"server": "storage", "do": {"bytes_per_second": 40_000_000}})
        python = home.start_python(DOWNLOAD, "owner/big", "big.safetensors")
        if first == "lora":
            lora = home.start_lora("download", "owner/big", "big.safetensors")
            time.sleep(0.3)
            tell(python)
        else:
            tell(python)
            time.sleep(0.3 if first == "Python" else 0)
            lora = home.start_lora("download", "owner/big", "big.safetensors")
        paths = {Path(finish(process).strip()) for process in (python, lora)}
        assert len(paths) == 1, f"{first} first: two places: {paths}"
        (path,) = paths
        assert digest(path) == wanted, f"{first} first: other bytes"
        blobs = [blob.name for blob in (home.storage("owner/big") / "blobs").iterdir()]
        assert blobs == [wanted], f"{first} first: blobs {blobs}"
        came = [request["method"] for request in work.stub.log() if request["server"] == "storage"]
        assert came.count("GET") == 1, f"{first} first: {came.count('GET')} transfers of one file"
        shutil.rmtree(home.path)
    return "three times one transfer"


@check("what is in the cache")
def listed(work):
    home = work.home()
    home.lora(REPO)
    home.lora(REPO, "--revision", "v1", "--include", "*.json")
    home.lora(REPO, FILE, "--revision", "refs/pr/1")
    home.lora("owner/slow")
    command = [sys.executable, "-c", SCAN]
    done = subprocess.run(command, env=home.environment(), capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    theirs = json.loads(done.stdout)
    assert theirs.pop("warnings") == [], "huggingface_hub finds the cache corrupted"
    done = home.run_lora("cache", "list", "--json", "--cache-dir", home.cache)
    assert done.returncode == 0, done.stderr
    ours = json.loads(done.stdout)
    assert Path(ours["cache_dir"]) == home.cache, ours["cache_dir"]
    repos = sorted(map(listed_repo, ours["repos"]), key=lambda repo: repo["repo_id"])
    ours = {"size_on_disk": ours["size_on_disk"], "repos": repos}
    assert ours == theirs, f"huggingface_hub lists {json.dumps(theirs)}; lora {json.dumps(ours)}"
    return f"{len(ours['repos'])} repositories, {ours['size_on_disk']} bytes"


def listed_repo(repo):
    """What huggingface_hub lists as well, in its order."""
    of = lambda each, *names: {name: each[name] for name in names}
    revisions = sorted(repo["revisions"], key=lambda revision: revision["commit_hash"])
    names = "commit_hash", "size_on_disk", "nb_files"
    revisions = [{**of(revision, *names), "refs": sorted(revision["refs"])} for revision in revisions]
    return {**of(repo, "repo_id", "repo_type", "size_on_disk", "nb_files"), "revisions": revisions}


def main():
    if version("huggingface_hub") != PINNED:
        found = version("huggingface_hub")
        sys.exit(f"live_hub.py: huggingface_hub {found} is installed, not {PINNED}; run `make test`")
    chosen = [name for name in CHECKS if not sys.argv[2:] or any(map(name.startswith, sys.argv[2:]))]
    failures = []
    with tempfile.TemporaryDirectory() as temporary:
        work = Workplace(Path(temporary).resolve())
        for name in chosen:
            work.stub.reset()
            try:
                print(f"ok {name} ({CHECKS[name](work)})", flush=True)
            except Exception as error:
                failures.append(name)
                print(f"FAILED {name}: {type(error).__name__}: {error}", flush=True)
        work.stub.stop()
    sys.exit(f"{len(failures)} failed: {', '.join(failures)}" if failures else 0)


if __name__ == "__main__":
    LORA = sys.argv[1]
    main()
