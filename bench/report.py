#!/usr/bin/env python3
"""Puts our figures and the reference's beside each other: report.py OURS.jsonl REFERENCE.jsonl OUT.json"""
import json
import sys

# What is compared, with the share of the reference's time that we hold ourselves to.
GOALS = {
    "start": 1 / 10,
    "open.float16": 1,
    "load.kohya.first": 1 / 10,
    "load.kohya.second": 1 / 10,
    "load.peft.first": 1 / 10,
    "load.peft.second": 1 / 10,
    "fuse.float32": 1 / 3,
    "fuse.bfloat16": 1 / 5,
    "unfuse.float32": 1 / 4,
    "unfuse.bfloat16": 1 / 4,
    "step.base": 1,
}


def read(path):
    """The best of each name's rows: the rounds of a machine that is not always as fast."""
    best = {}
    with open(path) as lines:
        for row in map(json.loads, lines):
            kept = best.setdefault(row["name"], row)
            if row["seconds"] < kept["seconds"]:
                best[row["name"]] = row
    return best


def main():
    ours, reference = read(sys.argv[1]), read(sys.argv[2])
    rows = []

    def add(name, mine, theirs, what, goal):
        rows.append({"name": name, "ours": mine, "reference": theirs, "ratio": round(mine / theirs, 4), "unit": "s", "against": what, "goal": goal})

    for name, row in ours.items():
        if name in reference:
            against = "huggingface_hub" if name.startswith("hub.") else "diffusers"
            add(name, row["seconds"], reference[name]["seconds"], against, GOALS.get(name))
    seconds = lambda name: ours[name]["seconds"]
    add("open over map", seconds("open.float16"), seconds("map.float16"), "mapping the files", None)
    add("one adapter over base", seconds("step.one"), seconds("step.base"), "our base step", None)
    add("three adapters over base", seconds("step.three"), seconds("step.base"), "our base step", 1.1)
    add("eight adapters over base", seconds("step.eight"), seconds("step.base"), "our base step", None)
    add("fused over base", seconds("step.fused"), seconds("step.base"), "our base step", None)
    add("4 images, 4 adapters", seconds("batch.four"), seconds("batch.base"), "the batch without", None)
    for what in ("load", "switch", "weights"):
        for count in (10, 50, 200):
            add(f"{what}, {count} loaded", seconds(f"{what}.with{count}"), seconds(f"{what}.with1"), "with 1 loaded", None)
    for count in (1, 10, 50, 200):
        add(f"memory, {count} loaded", seconds(f"memory.with{count}"), 1.0, "file sizes an adapter", 1.05)
    add("memory after unload", seconds("memory.unloaded"), 1.0, "before the loads", 1.02)
    for what in ("fuse", "unfuse"):
        add(f"SDXL {what} over copy", seconds(f"xl.{what}"), seconds("xl.copy"), "copying its weights", None)
    add("file: names", seconds("file.parse"), seconds("file.read"), "reading its bytes", 2)
    add("file: inspect", seconds("file.inspect"), seconds("file.read"), "reading its bytes", None)
    add("file: convert", seconds("file.convert"), seconds("file.copy"), "a synced copy", None)
    add("hub: large file", seconds("hub.large"), seconds("hub.ceiling"), "reading it from a socket", None)
    with open(sys.argv[3], "w") as out:
        json.dump(rows, out, indent=1)

    print(f"\n{'':26}{'ours, s':>12}{'reference, s':>14}{'ratio':>9}{'goal':>8}  against")
    for r in rows:
        goal = f"{r['goal']:.2f}" if r["goal"] else ""
        print(f"{r['name']:26}{r['ours']:>12.4f}{r['reference']:>14.4f}{r['ratio']:>9.3f}{goal:>8}  {r['against']}")


if __name__ == "__main__":
    main()
