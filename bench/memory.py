#!/usr/bin/env python3
"""What a call is estimated to need of memory, and what it takes.

    python bench/memory.py build/bench build/lora [--rows sd15 sdxl] [--steps 1] [--limit 8]

Draws with the models that make_models.py wrote, as whole processes. Prints the estimate of `lora generate --json`, the
most memory that was resident at once, and how much of it was not clean pages of files, which the system can drop. The
last is looked at 20 times a second. --limit runs each process in a control group of so many GB (as root).
"""
import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

ROWS = {
    "sd15": [
        ("sd15-float16", dtype, "512x512", more) for dtype in ("float16", "bfloat16") for more in ([], ["--low-memory"])
    ],
    "sdxl": [("sdxl-bfloat16", "bfloat16", "1024x1024", more) for more in ([], ["--low-memory"])],
}


def control_group(gigabytes):
    """A new group with that limit; the file that takes the process's number."""
    root = Path("/sys/fs/cgroup")
    old = (root / "memory").is_dir()
    group = (root / "memory" if old else root) / f"lora-bench-{os.getpid()}"
    group.mkdir()
    (group / ("memory.limit_in_bytes" if old else "memory.max")).write_text(str(int(gigabytes * 1e9)))
    return group


def in_status(pid, field):
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(field + ":"):
                return int(line.split()[1]) * 1024
    except (FileNotFoundError, ProcessLookupError):
        pass
    return 0


def run(command, group):
    enter = (lambda: (group / "cgroup.procs").write_text(str(os.getpid()))) if group else None
    start = time.time()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=enter)
    own = resident = 0
    while process.poll() is None:
        own = max(own, in_status(process.pid, "RssAnon"))
        resident = max(resident, in_status(process.pid, "VmHWM"))
        time.sleep(0.05)
    out, err = process.communicate()
    return process.returncode, out, err, own, resident, time.time() - start


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("cache", type=Path)
    parser.add_argument("command")
    parser.add_argument("--rows", nargs="+", default=["sd15"], choices=ROWS)
    parser.add_argument("--steps", default="1")
    parser.add_argument("--limit", type=float)
    a = parser.parse_args()
    group = control_group(a.limit) if a.limit else None
    try:
        for model, dtype, size, more in [row for name in a.rows for row in ROWS[name]]:
            command = [a.command, "generate", a.cache / model, "-p", "red apple", "--seed", "1", "--steps", a.steps]
            command += ["--size", size, "--dtype", dtype, "--json", "--yes", "-o", a.cache / "memory.png", *more]
            code, out, err, own, resident, seconds = run([str(word) for word in command], group)
            if code:
                print(f"{model} {dtype} {size} {' '.join(more)}: ended with {code}: {err.strip()[-200:]}", file=sys.stderr)
                continue
            row = {"model": model, "dtype": dtype, "size": size, "low_memory": bool(more), "seconds": round(seconds, 1)}
            needed = json.loads(out)["memory"]
            row |= {f"estimate_{name}": round(needed[name] / 1e9, 2) for name in ("peak", "weights", "denoising", "decoding")}
            row |= {"resident": round(resident / 1e9, 2), "not_clean": round(own / 1e9, 2)}
            print(json.dumps(row), flush=True)
    finally:
        if group:
            group.rmdir()


if __name__ == "__main__":
    main()
