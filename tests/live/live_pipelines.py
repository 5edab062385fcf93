#!/usr/bin/env python3
"""Exchanges whole pipelines and their LoRA files with diffusers, both ways, and compares what both draw.

    build/venv/bin/python tests/live/live_pipelines.py LIVE_EXCHANGE

The models are those of tools/reference/make_tiny_pipelines.py. Each case prints a line; a failure ends with status 1.
"""
import os
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools" / "reference"))
try:
    import diffusers
    import torch
    from common import check_versions, quiet, relative
    from make_tiny_pipelines import TARGETS, adapter, factors, make_pipeline, pipelines
    from safetensors.torch import load_file
except ImportError as error:
    sys.exit(f"live_pipelines.py: {error}; run `make test`, which installs the reference in build/venv")

LATENTS = 1e-4  # as a share of the largest one
failures = []


def report(name, got, wanted):
    error = 0.0 if torch.equal(got, wanted) else relative(got, wanted) if got.is_floating_point() else 1.0
    print(f"{name}: {error:.1e}", flush=True)
    if not error <= LATENTS:
        failures.append(name)


def draw(pipe):
    generator = torch.Generator().manual_seed(5)
    return pipe("red apple", num_inference_steps=2, generator=generator, output_type="latent", return_dict=False)[0]


def reopened(pipe, folder):
    """What diffusers makes of a folder of ours."""
    extra = dict(add_watermarker=False) if "XL" in type(pipe).__name__ else {}
    if getattr(pipe, "text_encoder_3", extra) is None:  # diffusers wants to be told, of its own folders too
        extra |= dict(text_encoder_3=None, tokenizer_3=None)
    again = type(pipe).from_pretrained(folder, torch_dtype=torch.float32, local_files_only=True, **extra)
    again.set_progress_bar_config(disable=True)
    return again


def exchange(program, name, spec, folder):
    pipe = make_pipeline(spec, "text")
    pipe.save_pretrained(folder / "theirs")
    lora = "none"
    if hasattr(pipe, "save_lora_weights") and spec["cls"] != "Amused":
        # T5's adapters have no place in diffusers' files.
        layers = {c: t for c, t in factors(pipe, spec, adapter("live", targets=TARGETS)).items() if c != "text_encoder_3"}
        pipe.save_lora_weights(folder / "lora", **{f"{c}_lora_layers": t for c, t in layers.items()})
        lora = folder / "lora" / "pytorch_lora_weights.safetensors"
    out = folder / "ours"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([program, "pipeline", folder / "theirs", lora, out], env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{name}: live_exchange: {done.stderr.strip()}")
    ours = load_file(out / "latents.safetensors")["latents"]
    back = reopened(pipe, out / "pipeline")
    if lora == "none":
        report(f"{name}: a pipeline of diffusers, drawn here", ours, draw(pipe))
        report(f"{name}: a pipeline saved here, drawn by diffusers", draw(back), ours)
        return
    base = draw(pipe)
    report(f"{name}: a pipeline saved here, drawn by diffusers", draw(back), base)
    pipe.load_lora_weights(lora)
    theirs = draw(pipe)
    assert relative(theirs, base) > 0.01, f"{name}: the LoRA changes nothing"
    report(f"{name}: a LoRA saved by diffusers, drawn here", ours, theirs)
    back.load_lora_weights(out / "lora" / "pytorch_lora_weights.safetensors")
    report(f"{name}: a LoRA saved here, drawn by diffusers", draw(back), theirs)


@torch.no_grad()
def main():
    check_versions()
    quiet()
    for name, spec in pipelines().items():
        if name in ("sd", "sd-inpaint", "sdxl-refiner"):  # live_test.py has the first; the others start from pictures
            continue
        with tempfile.TemporaryDirectory() as folder:
            exchange(sys.argv[1], name, spec, Path(folder))
    if failures:
        raise SystemExit("failed: " + ", ".join(failures))


if __name__ == "__main__":
    main()
