#!/usr/bin/env python3
"""What a whole command costs: wall time, CPU time and peak memory of N runs, as one line of JSON.

    python bench/start_cost.py [-n 3] [--name NAME] [--until TEXT] -- COMMAND…

With --until the clock stops where TEXT first comes out of the command (on either stream), and the command is ended.
"""
import argparse
import json
import os
import selectors
import signal
import statistics
import subprocess
import sys
import time


def wait_for(process, text):
    """Reads both streams until `text` has come. Returns the time, or None where it never came."""
    with selectors.DefaultSelector() as selector:
        tails = {}
        for stream in (process.stdout, process.stderr):
            selector.register(stream, selectors.EVENT_READ)
            tails[stream] = b""
        while tails:
            for key, _ in selector.select():
                stream = key.fileobj
                data = os.read(stream.fileno(), 65536)
                now = time.perf_counter()
                if not data:
                    selector.unregister(stream)
                    del tails[stream]
                elif text in (tail := tails[stream] + data):
                    return now
                else:
                    tails[stream] = tail[-4096:]
    return None


def run_once(command, until=None):
    """(wall seconds, CPU seconds, peak MiB)"""
    pipe = subprocess.PIPE if until else subprocess.DEVNULL
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=pipe, stderr=pipe)
    end = wait_for(process, until.encode()) if until else None
    if until:
        os.kill(process.pid, signal.SIGTERM)  # not terminate(), which would reap the process and its usage
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if until and end is None:
        raise SystemExit(f"never said {until!r}: {' '.join(command)}")
    if not until:
        end = time.perf_counter()
        if process.returncode != 0:
            raise SystemExit(f"exit code {process.returncode}: {' '.join(command)}")
    return end - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def measure(name, command, runs=3, until=None):
    wall, cpu, peak = zip(*(run_once(command, until) for _ in range(runs)))
    return {
        "name": name,
        "seconds": round(min(wall), 4),
        "unit": "s",
        "median": round(statistics.median(wall), 4),
        "cpu": round(min(cpu), 4),
        "peak_mb": round(max(peak)),
        "runs": runs,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", type=int, default=3)
    parser.add_argument("--name", default="command")
    parser.add_argument("--until")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    args = parser.parse_args()
    command = args.command[1:] if args.command[:1] == ["--"] else args.command
    if not command:
        sys.exit("no command given after --")
    print(json.dumps(measure(args.name, command, args.n, args.until)))


if __name__ == "__main__":
    main()
