#!/usr/bin/env python3
"""What `lora list` costs for many files: 5,000 small LoRAs for SD 1.5, and 500 for SDXL with all names of a real one.

    python bench/list.py build/bench/list build/lora [-n 3]

The files have whole headers, and holes in place of numbers, so that they need little room.
"""
import argparse
import json
import os
import pathlib
import struct
import subprocess
import time

LEAVES = ("attn1_to_q", "attn1_to_k", "attn1_to_v", "attn1_to_out_0",
          "attn2_to_q", "attn2_to_k", "attn2_to_v", "attn2_to_out_0", "ff_net_0_proj", "ff_net_2")  # fmt: skip


def block_layers(prefix, width, context):
    """(name, inputs, outputs) of one transformer block of a UNet."""
    for leaf in LEAVES:
        inputs = 4 * width if leaf == "ff_net_2" else context if leaf in ("attn2_to_k", "attn2_to_v") else width
        yield f"{prefix}_{leaf}", inputs, 8 * width if leaf == "ff_net_0_proj" else width


def sdxl_layers():
    """The 722 layers of SDXL's UNet that kohya's scripts train, by their names."""
    levels = [("input_blocks", (4, 5), 640, 2), ("input_blocks", (7, 8), 1280, 10), ("middle_block", (None,), 1280, 10),
              ("output_blocks", (0, 1, 2), 1280, 10), ("output_blocks", (3, 4, 5), 640, 2)]  # fmt: skip
    for name, numbers, width, depth in levels:
        for number in numbers:
            block = f"lora_unet_{name}_1" if number is None else f"lora_unet_{name}_{number}_1"
            yield f"{block}_proj_in", width, width
            yield f"{block}_proj_out", width, width
            for i in range(depth):
                yield from block_layers(f"{block}_transformer_blocks_{i}", width, 2048)


def sd1_layers():
    """One block of SD 1.5's UNet."""
    yield from block_layers("lora_unet_mid_block_attentions_0_transformer_blocks_0", 1280, 768)


def write(file, layers, rank, metadata):
    header, position = {"__metadata__": metadata}, 0

    def add(key, shape):
        nonlocal position
        size = 2
        for n in shape:
            size *= n
        header[key] = {"dtype": "F16", "shape": shape, "data_offsets": [position, position + size]}
        position += size

    for name, inputs, outputs in layers:
        add(f"{name}.alpha", [])
        add(f"{name}.lora_down.weight", [rank, inputs])
        add(f"{name}.lora_up.weight", [outputs, rank])
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(file, "wb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        out.truncate(8 + len(text) + position)
    os.utime(file, (1.7e9, 1.7e9))
    return len(text)


def make(folder, count, layers, rank, version):
    folder.mkdir(parents=True, exist_ok=True)
    tags = {"10_pictures": {f"tag number {i}": 1000 - i for i in range(200)}}
    for i in range(count):
        metadata = {"ss_base_model_version": version, "ss_network_module": "networks.lora", "ss_network_dim": str(rank),
                    "ss_output_name": f"style_{i}", "modelspec.title": f"Style {i}",
                    "ss_tag_frequency": json.dumps(tags), "sshs_model_hash": f"{i:064x}"}  # fmt: skip
        length = write(folder / f"style-{i:04}.safetensors", layers, rank, metadata)
    print(f"{folder}: {count} files, headers of {length / 1000:.0f} kB")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("command")
    parser.add_argument("-n", type=int, default=3, help="runs, of which the best counts")
    arguments = parser.parse_args()
    make(arguments.folder / "small", 5000, list(sd1_layers()), 8, "sd_v1")
    make(arguments.folder / "sdxl", 500, list(sdxl_layers()), 32, "sdxl_base_v1-0")
    caches = arguments.folder / "caches"
    cache = caches / "lora.cpp/loras.cbor"
    for name in ("small", "sdxl"):

        def seconds(*options):
            """Of the clock, and of all cores together."""
            start, before = time.perf_counter(), os.times()
            subprocess.run([arguments.command, "list", arguments.folder / name, *options], check=True,
                           stdout=subprocess.DEVNULL, env={**os.environ, "XDG_CACHE_HOME": str(caches)})  # fmt: skip
            after = os.times()
            cpu = after.children_user + after.children_system - before.children_user - before.children_system
            return time.perf_counter() - start, cpu

        times = {"first": [], "cached": [], "cached --json": [], "--no-cache": []}
        for _ in range(arguments.n):
            cache.unlink(missing_ok=True)
            times["first"].append(seconds())
            times["cached"].append(seconds())
            times["cached --json"].append(seconds("--json"))
            times["--no-cache"].append(seconds("--no-cache"))
        for run, all_times in times.items():
            wall, cpu = (min(column) for column in zip(*all_times))
            print(f"{name:6} {run:14} {wall:7.2f} s, {cpu:7.2f} s of CPU")


if __name__ == "__main__":
    main()
