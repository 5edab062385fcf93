#!/usr/bin/env python3
"""Downloads of a large file and of many small ones, by us and by huggingface_hub, from a Hub on the loopback.

    python bench/hub.py --lora build/lora --call build/release/bench/hub_call [-n 3] [--ours OURS.jsonl --reference REFERENCE.jsonl] [--mb 500]

In turns, each time into an empty cache: snapshot_download of both, timed around the call; and the commands `lora
download` and `hf download`, timed from start to end. CPU time and memory are whole processes'. Ours also compares the
bytes with their digest and syncs them to the disk.
The ceiling is what the Hub's stub sends to a socket that throws it away. With --ours and --reference, rows for report.py
are appended to these files.
"""
import argparse
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.parse import urlsplit

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "hub"))
from stub_hub import Stub

SMALL_FILES = 200
TEXT, WEIGHTS = 2_000, 100_000  # bytes of a small file; half are the one, half the other
THEIRS = """
import sys, time
from huggingface_hub import snapshot_download
start = time.perf_counter()
snapshot_download(sys.argv[1])
print(time.perf_counter() - start)
"""


def make_repositories(root, megabytes):
    """name: (files, bytes)"""
    numbers = random.Random(0)
    large, small = root / "bench" / "large" / "main", root / "bench" / "small" / "main"
    large.mkdir(parents=True)
    small.mkdir(parents=True)
    with open(large / "model.safetensors", "wb") as file:
        for _ in range(megabytes):  # by pieces: the memory of this process counts as a child's
            file.write(numbers.randbytes(1_000_000))
    for i in range(SMALL_FILES // 2):
        (small / f"text{i}.txt").write_bytes(numbers.randbytes(TEXT // 2).hex().encode())
        (small / f"weights{i}.safetensors").write_bytes(numbers.randbytes(WEIGHTS))
    return {"large": (1, megabytes * 1_000_000), "small": (SMALL_FILES, SMALL_FILES // 2 * (TEXT + WEIGHTS))}


def run(command, endpoint):
    """(wall seconds, CPU seconds, peak MiB, what it printed), with an empty cache."""
    with tempfile.TemporaryDirectory() as home:
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
        environment |= {"HF_ENDPOINT": endpoint, "HF_HOME": home, "no_proxy": "*"}
        environment |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_UPDATE_CHECK": "1"}
        os.sync()  # none pays for the writing that another left behind
        start = time.perf_counter()
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE)
        out = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            raise SystemExit(f"exit code {process.returncode}: {' '.join(command)}")
    return wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, out


def command(words, endpoint):
    return run(words, endpoint)[:3]


def call(words, endpoint):
    _, cpu, peak, out = run(words, endpoint)
    return float(out), cpu, peak


def ceiling(stub, digest):
    """(wall seconds, 0, 0) of reading a blob from a socket."""
    there = urlsplit(stub.storage)
    buffer = bytearray(1 << 20)
    start = time.perf_counter()
    with socket.create_connection((there.hostname, there.port)) as sock:
        sock.sendall(f"GET /blob/{digest} HTTP/1.1\r\nConnection: close\r\n\r\n".encode())
        while sock.recv_into(buffer):
            pass
    return time.perf_counter() - start, 0, 0


def summary(name, runs):
    wall, cpu, peak = zip(*runs)
    return {
        "name": name,
        "seconds": round(min(wall), 4),
        "unit": "s",
        "median": round(statistics.median(wall), 4),
        "cpu": round(min(cpu), 4),
        "peak_mb": round(max(peak)),
        "runs": len(runs),
    }


def append(path, rows):
    with open(path, "a") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lora", required=True, help="the command")
    parser.add_argument("--call", required=True, help="the program of bench/hub_call.cpp")
    parser.add_argument("-n", type=int, default=3, help="runs of each")
    parser.add_argument("--mb", type=int, default=500, help="size of the large file")
    parser.add_argument("--ours", type=Path)
    parser.add_argument("--reference", type=Path)
    args = parser.parse_args()
    mine, other, most = [], [], []
    with tempfile.TemporaryDirectory() as root:
        repositories = make_repositories(Path(root), args.mb)
        with Stub(root) as stub:
            (large,) = (file for file in stub.ask("/api/models/bench/large/tree/main") if file["type"] == "file")
            stub.ask("/api/models/bench/small")  # the stub's own digests are made by now
            hf = str(Path(sys.executable).with_name("hf"))
            for name in repositories:
                repo = f"bench/{name}"
                ways = {
                    name: (call, [args.call, repo], [sys.executable, "-c", THEIRS, repo]),
                    f"{name}, command": (command, [args.lora, "download", repo], [hf, "download", repo]),
                }
                runs = {way: ([], []) for way in ways}
                for _ in range(args.n):
                    for way, (timed, us, them) in ways.items():
                        runs[way][1].append(timed(them, stub.endpoint))
                        runs[way][0].append(timed(us, stub.endpoint))
                    if name == "large":
                        most.append(ceiling(stub, large["lfs"]["oid"]))
                    stub.reset()
                mine += [summary(f"hub.{way}", us) for way, (us, _) in runs.items()]
                other += [summary(f"hub.{way}", them) for way, (_, them) in runs.items()]
    most = [summary("hub.ceiling", most)]

    print(f"{'':33}{'best, s':>9}{'median, s':>11}{'MB/s':>8}{'files/s':>9}{'CPU, s':>8}{'peak, MB':>10}{'ratio':>8}")
    for who, rows in (("huggingface_hub", other), ("lora", mine), ("a socket", most)):
        for row in rows:
            what = row["name"].removeprefix("hub.").replace("ceiling", "large")
            files, size = repositories[what.split(",")[0]]
            reference = next(each for each in other if each["name"] == f"hub.{what}")
            print(
                f"{what + ', ' + who:33}{row['seconds']:>9.3f}{row['median']:>11.3f}{size / row['seconds'] / 1e6:>8.0f}"
                f"{files / row['seconds']:>9.1f}{row['cpu']:>8.2f}{row['peak_mb']:>10}{row['seconds'] / reference['seconds']:>8.3f}"
            )
    if args.ours:
        append(args.ours, mine + most)
    if args.reference:
        append(args.reference, other)


if __name__ == "__main__":
    main()
