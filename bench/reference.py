#!/usr/bin/env python3
"""What diffusers with PEFT needs for the work that lora.cpp does: a line of JSON for each measurement.

    python bench/reference.py build/bench [--threads 1] [--runs 3] [--only load,step.base] [--list]

build/bench is what make_models.py wrote. `seconds` is the best of the runs and `cpu` the least processor time,
`peak_mb` the highest resident memory while they went on, `grown_mb` how far that is above what it was before. A name
given to --only stands for all that begin with it.
"""
import argparse
import gc
import json
import os
import statistics
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FIRST_STEP = "first step done"


# ---- Clocks ----------------------------------------------------------------------------------------------------------


def status(field):
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) / 1024
    return 0.0


def reset_peak():
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pass  # peak_mb is then the peak since the process began


def measure(name, action, runs, before=lambda: None, after=lambda: None, warm=0, loops=1):
    """Times `action`, `before` and `after` apart from it. loops: how often it is called in one run."""
    wall, cpu, peak, grown = [], [], 0.0, 0.0
    for i in range(warm + runs):
        before()
        gc.collect()
        reset_peak()
        resident = status("VmRSS")
        t, c = time.perf_counter(), time.process_time()
        for _ in range(loops):
            action()
        t, c = time.perf_counter() - t, time.process_time() - c
        if i >= warm:
            wall.append(t / loops)
            cpu.append(c / loops)
            peak = max(peak, status("VmHWM"))
            grown = max(grown, status("VmHWM") - resident)
        after()
    row = {
        "name": name,
        "seconds": round(min(wall), 6),
        "unit": "s",
        "median": round(statistics.median(wall), 6),
        "cpu": round(min(cpu), 6),
        "peak_mb": round(peak),
        "grown_mb": round(grown),
        "runs": runs,
    }
    print(json.dumps(row), flush=True)


# ---- Measurements ----------------------------------------------------------------------------------------------------

MEASUREMENTS = {}  # name -> function of a Bench; those of one dtype side by side, so that a pipeline is opened once


def measures(*names, **given):
    """Registers a function under plain names, or under names with the arguments that make it each of them."""

    def add(function):
        for name, args in {**dict.fromkeys(names, ()), **given.get("each", {})}.items():
            MEASUREMENTS[name] = lambda bench, name=name, args=args: function(bench, name, *args)
        return function

    return add


class Bench:
    def __init__(self, cache, runs):
        self.cache, self.runs, self.dtype, self.opened = cache, runs, None, None

    def open(self, dtype):
        import diffusers
        import torch

        exact = self.cache / f"sd15-{dtype}"
        folder = exact if exact.exists() else self.cache / "sd15-float16"
        return diffusers.StableDiffusionPipeline.from_pretrained(
            folder, torch_dtype=getattr(torch, dtype), safety_checker=None, local_files_only=True
        )

    def xl(self):
        import diffusers
        import torch

        return diffusers.StableDiffusionXLPipeline.from_pretrained(
            self.cache / "sdxl-bfloat16", torch_dtype=torch.bfloat16, local_files_only=True, add_watermarker=False
        )

    def pipe(self, dtype):
        """Stable Diffusion 1.5 in that dtype; "sdxl" is SDXL."""
        if self.dtype != dtype:
            self.opened = None
            gc.collect()
            self.opened, self.dtype = self.xl() if dtype == "sdxl" else self.open(dtype), dtype
        return self.opened

    def lora(self, kind, i):
        return str(self.cache / "loras" / f"{kind}-{i}.safetensors")


@measures("start")
def start(bench, name):
    """The whole command on the embedded model, from the start of the process to the first denoising step."""
    from start_cost import measure as whole

    command = [sys.executable, __file__, str(bench.cache), "--first-step"]
    print(json.dumps(whole(name, command, bench.runs, FIRST_STEP)), flush=True)


@measures("open.float16")
def open_half(bench, name):
    """In the dtype of the file."""
    kept = []
    measure(name, lambda: kept.append(bench.open("float16")), bench.runs, after=kept.clear, warm=1)


def loaded(pipe, bench, *adapters, kind="kohya"):
    for i in adapters:
        pipe.load_lora_weights(bench.lora(kind, i), adapter_name=f"a{i}")


@measures(
    each={
        "load.kohya.first": ("kohya", ()),
        "load.kohya.second": ("kohya", (0,)),
        "load.peft.first": ("peft", ()),
        "load.peft.second": ("peft", (0,)),
    }
)
def load(bench, name, kind, present):
    pipe, last = bench.pipe("float32"), len(present)
    measure(
        name,
        lambda: loaded(pipe, bench, last, kind=kind),
        bench.runs,
        before=lambda: loaded(pipe, bench, *present, kind=kind),
        after=pipe.unload_lora_weights,
    )


@measures("set_adapters")
def set_adapters(bench, name):
    """Two adapters get weights."""
    pipe = bench.pipe("float32")
    loaded(pipe, bench, 0, 1)
    measure(name, lambda: pipe.set_adapters(["a0", "a1"], [0.7, 0.5]), bench.runs, warm=1, loops=5)
    pipe.unload_lora_weights()


@measures("switch")
def switch(bench, name):
    """From one adapter to the other, each a call."""
    pipe, turn = bench.pipe("float32"), [0]
    loaded(pipe, bench, 0, 1)

    def action():
        turn[0] ^= 1
        pipe.set_adapters(f"a{turn[0]}")

    measure(name, action, bench.runs, warm=1, loops=6)
    pipe.unload_lora_weights()


@measures("unload")
def unload(bench, name):
    pipe = bench.pipe("float32")
    measure(name, pipe.unload_lora_weights, bench.runs, before=lambda: loaded(pipe, bench, 0))


COMPONENTS = ["unet", "text_encoder"]


@measures(each={"step.base": (0,), "step.one": (1,), "step.three": (3,)})
def step(bench, name, adapters):
    """One call of the UNet: float32, latents of 32x32, a batch of two."""
    import torch

    pipe = bench.pipe("float32")
    loaded(pipe, bench, *range(adapters))
    if adapters:
        pipe.set_adapters([f"a{i}" for i in range(adapters)], [0.5] * adapters)
    generator = torch.Generator().manual_seed(0)
    sample, states = torch.randn(2, 4, 32, 32, generator=generator), torch.randn(2, 77, 768, generator=generator)

    @torch.inference_mode()
    def action():
        pipe.unet(sample, 500, states)

    measure(name, action, bench.runs, warm=1)
    if adapters:
        pipe.unload_lora_weights()


# After the steps: a subtraction does not bring the base weights back exactly.
@measures(
    each={
        "fuse.float32": ("float32", True),
        "unfuse.float32": ("float32", False),
        "fuse.bfloat16": ("bfloat16", True),
        "unfuse.bfloat16": ("bfloat16", False),
    }
)
def fuse(bench, name, dtype, forward):
    pipe = bench.pipe(dtype)
    loaded(pipe, bench, 0)
    into = lambda: pipe.fuse_lora(components=COMPONENTS)
    out = lambda: pipe.unfuse_lora(components=COMPONENTS)
    if forward:
        measure(name, into, bench.runs, after=out)
    else:
        measure(name, out, bench.runs, before=into)
    pipe.unload_lora_weights()


@measures("xl.open")
def open_xl(bench, name):
    kept = []
    measure(name, lambda: kept.append(bench.xl()), min(bench.runs, 2), after=kept.clear, warm=1)


def xl_loaded(pipe, bench, *adapters):
    for i in adapters:
        pipe.load_lora_weights(bench.lora("sdxl", i), adapter_name=f"a{i}")


@measures("xl.load")
def load_xl(bench, name):
    pipe = bench.pipe("sdxl")
    measure(name, lambda: xl_loaded(pipe, bench, 0), bench.runs, after=pipe.unload_lora_weights)


@measures("xl.switch")
def switch_xl(bench, name):
    pipe, turn = bench.pipe("sdxl"), [0]
    xl_loaded(pipe, bench, 0, 1)

    def action():
        turn[0] ^= 1
        pipe.set_adapters(f"a{turn[0]}")

    measure(name, action, bench.runs, warm=1, loops=6)
    pipe.unload_lora_weights()


@measures(each={"xl.fuse": (True,), "xl.unfuse": (False,)})
def fuse_xl(bench, name, forward):
    pipe = bench.pipe("sdxl")
    xl_loaded(pipe, bench, 0)
    parts = [*COMPONENTS, "text_encoder_2"]
    into = lambda: pipe.fuse_lora(components=parts)
    out = lambda: pipe.unfuse_lora(components=parts)
    if forward:
        measure(name, into, min(bench.runs, 2), after=out)
    else:
        measure(name, out, min(bench.runs, 2), before=into)
    pipe.unload_lora_weights()


# ---- Command ---------------------------------------------------------------------------------------------------------


def quiet():
    import logging
    import warnings

    import diffusers
    import transformers

    warnings.filterwarnings("ignore")
    logging.disable(logging.CRITICAL)
    diffusers.utils.logging.disable_progress_bar()
    transformers.logging.disable_progress_bar()


def first_step():
    """What a user writes, on the embedded model."""
    import torch
    from diffusers import StableDiffusionPipeline

    model = ROOT / "models" / "tiny"
    pipe = StableDiffusionPipeline.from_pretrained(model, torch_dtype=torch.float32, safety_checker=None)

    def tell(pipe, step, timestep, values):
        print(FIRST_STEP, flush=True)
        return values

    pipe("red apple", num_inference_steps=20, guidance_scale=4.0, callback_on_step_end=tell)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cache", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--only", default="", help="names, or beginnings of names, with commas between")
    parser.add_argument("--list", action="store_true", help="print the names and stop")
    parser.add_argument("--first-step", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    wanted = [o for o in args.only.split(",") if o]
    begins = lambda name, o: name == o or name.startswith(o + ".")
    unknown = [o for o in wanted if not any(begins(n, o) for n in MEASUREMENTS)]
    if unknown:
        parser.error(f"no measurement {', '.join(unknown)}; there are {', '.join(MEASUREMENTS)}")
    chosen = [n for n in MEASUREMENTS if not wanted or any(begins(n, o) for o in wanted)]
    if args.list:
        print("\n".join(chosen))
        return
    for library in ("OMP", "MKL"):
        os.environ[f"{library}_NUM_THREADS"] = str(args.threads)  # for this process and the one that it starts
    if args.first_step:
        first_step()
        return
    bench = Bench(args.cache, args.runs)
    if "start" in chosen:  # while this process is small: its own size counts as the least that a child's peak can be
        chosen.remove("start")
        MEASUREMENTS["start"](bench)
    if chosen:
        import torch

        torch.set_num_threads(args.threads)
        quiet()
    for name in chosen:
        MEASUREMENTS[name](bench)


if __name__ == "__main__":
    main()
