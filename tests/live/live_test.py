#!/usr/bin/env python3
"""Exchanges LoRA files with diffusers and PEFT, both ways, and compares the numbers that come of them.

    build/venv/bin/python tests/live/live_test.py LIVE_EXCHANGE

The stored data of tests/data/lora holds what the reference once gave; here it reads what is written today. Everything
is on the tiny models of that data. Each case prints a line; those that fail are listed again at the end.
"""
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools" / "reference"))
try:
    import diffusers  # noqa: F401
    import peft  # noqa: F401
    import torch
    from common import check_versions, normal, quiet, relative, save_tensors
    from lora_models import (
        COMPONENTS,
        OUT,
        adaptable,
        attention,
        canonical,
        load_models,
        make_inputs,
        merged,
        only,
        outputs,
        random_layers,
    )
    from lora_spellings import FILES, each, kohya_keys, kohya_metadata, make_peft
    from make_lora import pipeline
    from peft.utils import get_peft_model_state_dict
    from safetensors.torch import load_file
except ImportError as error:
    sys.exit(f"live_test.py: {error}; run `make test`, which installs the reference in build/venv")

OUTPUT, WEIGHT = 1e-5, 1e-6  # what networks and single weights may differ by, as a share of the largest value
BLOCKS = {"down": 0.5, "mid": 0.2, "up": {"block_1": [0.3, 1.1]}}  # those that have attentions

# ---- Our side --------------------------------------------------------------------------------------------------------


class Ours:
    """The program over the library, and a folder for files. What it is asked for is a future: it works while the
    reference does."""

    def __init__(self, program, folder):
        self.program, self.folder, self.count, self.pool = program, folder, 0, ThreadPoolExecutor(2)
        self.inputs = make_inputs()
        save_tensors({k.removeprefix("inputs."): v for k, v in self.inputs.items()}, folder / "inputs.safetensors")

    def new(self, name):
        self.count += 1
        return self.folder / f"{self.count}-{name}"

    def call(self, *arguments):
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # models this small only wait for more
        command = [self.program, *map(str, arguments)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"live_exchange: {done.stderr.strip()}")

    def resave(self, file, pickle=False):
        folder = self.new("saved")

        def work():
            self.call(FILES / file, OUT / "model", folder, *(["--pickle"] if pickle else []))
            return folder / f"pytorch_lora_weights.{'bin' if pickle else 'safetensors'}"

        return self.pool.submit(work)

    def forward(self, adapters, lora_scale=None, dtype="float32"):
        """adapters: [(file, weight)]. Outputs by component; with a lora_scale fused, and with the weights that this
        makes as "weights.unet.…"."""
        rows = [dict(file=str(f), name=name, weight=k) for name, (f, k) in zip("abc", adapters)]
        fuse = dict(fuse=lora_scale is not None, lora_scale=lora_scale or 1.0)
        spec, out = self.new("spec.json"), self.new("out.safetensors")
        spec.write_text(json.dumps(dict(dtype=dtype, adapters=rows, **fuse)))

        def work():
            self.call("forward", OUT / "model", self.folder / "inputs.safetensors", out, spec)
            return load_file(out)

        return self.pool.submit(work)


# ---- The reference ---------------------------------------------------------------------------------------------------


def all_weights(models):
    """Every weight under the checkpoint's name, without what PEFT wraps around it."""
    found = {}
    for component, model in models.items():
        for key, tensor in model.state_dict().items():
            if "lora_" not in key:
                found[f"weights.{component}.{canonical(component, key.replace('.base_layer.', '.'))}"] = tensor
    return found


def by_diffusers(adapters, inputs, lora_scale=None):
    """What Ours.forward gives without a lora_scale; and, where one is given, with it."""
    pipe, names = pipeline(), list("abc"[: len(adapters)])
    for name, (file, _) in zip(names, adapters):
        pipe.load_lora_weights(str(file.parent), weight_name=file.name, adapter_name=name)
    pipe.set_adapters(names, [weight for _, weight in adapters])
    models = {c: getattr(pipe, c) for c in COMPONENTS}
    plain = outputs(models, inputs)
    if lora_scale is None:
        return plain
    pipe.fuse_lora(components=list(COMPONENTS), lora_scale=lora_scale)
    return plain, outputs(models, inputs) | all_weights(models)


def save_by_diffusers(file, models, components, metadata=True):
    """As diffusers' training scripts do."""
    from diffusers import StableDiffusionPipeline
    from diffusers.training_utils import _collate_lora_metadata

    keys = {f"{c}_lora_layers": get_peft_model_state_dict(models[c]) for c in components}
    if metadata:
        for name, fields in _collate_lora_metadata({c: models[c] for c in components}).items():
            keys[name] = {k: sorted(v) if isinstance(v, set) else v for k, v in fields.items()}
    StableDiffusionPipeline.save_lora_weights(file.parent, weight_name=file.name, **keys)


# ---- Comparing -------------------------------------------------------------------------------------------------------


class Report:
    """Runs the cases; a failing one doesn't keep the others from running."""

    def __init__(self, base):
        self.base, self.failures = base, []  # base: outputs without adapters

    def case(self, name, work):
        try:
            print(f"ok {name} ({work()})", flush=True)
        except Exception as error:
            self.failures.append(f"{name}: {type(error).__name__}: {error}")
            print(f"FAILED {self.failures[-1]}", flush=True)

    def same(self, got, wanted):
        """Outputs, and weights where there are any; both sides must have the same."""
        got = got.result()
        assert set(got) == set(wanted), sorted(set(got) ^ set(wanted))[:4]
        moved = max(relative(wanted[c], self.base[c]) for c in COMPONENTS)
        assert moved > 0.01, f"the adapters change the outputs by {moved:.1e}: nothing is tested"
        weights = [k for k in wanted if k.startswith("weights.")]
        errors = [within({c: relative(got[c], wanted[c]) for c in COMPONENTS}, OUTPUT, "outputs")]
        if weights:
            errors.append(within({k: relative(got[k], wanted[k]) for k in weights}, WEIGHT, "weights"))
        return ", ".join(errors)

    def both(self, ours, adapters, wanted, lora_scale=1.0):
        """Not fused and fused; wanted() gives both."""
        got = ours.forward(adapters), ours.forward(adapters, lora_scale)
        plain, fused = (self.same(g, w) for g, w in zip(got, wanted()))
        return f"{plain}; fused: {fused}"


def within(errors, tolerance, what):
    worst = max(errors, key=errors.get)
    assert errors[worst] <= tolerance, f"{worst} is off by {errors[worst]:.1e}, {tolerance:.0e} is allowed"
    return f"{what} {errors[worst]:.1e}"


# ---- (a) diffusers saves, we load ------------------------------------------------------------------------------------

TRANSFORMER = ["to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2"]
TEXT = ["q_proj", "k_proj", "v_proj", "out_proj"]
MLP = TEXT + ["fc1", "fc2"]
SAVED = {  # name: whether with metadata, and PEFT's configs
    "alpha": (
        True,
        dict(
            unet=dict(r=4, lora_alpha=6, target_modules=TRANSFORMER),
            text_encoder=dict(r=4, lora_alpha=2, target_modules=MLP),
        ),
    ),
    "patterns": (
        True,
        dict(
            unet=dict(
                r=4,
                lora_alpha=8,
                target_modules=TRANSFORMER + ["conv1", "conv2"],
                rank_pattern={"to_k": 2, "^up_blocks.1.*to_v": 5},
                alpha_pattern={"attn2.to_q": 1, "to_q": 6, "conv1": 3},
            ),
            text_encoder=dict(
                r=3,
                lora_alpha=6,
                target_modules=MLP,
                rank_pattern={"layers.1.mlp.fc1": 6},
                alpha_pattern={"v_proj": 2, "^encoder.layers.1.mlp.fc1": 3},
            ),
        ),
    ),
    "DoRA": (
        True,
        dict(
            unet=dict(r=4, lora_alpha=8, use_dora=True, target_modules=TRANSFORMER + ["conv1"]),
            text_encoder=dict(r=2, lora_alpha=3, use_dora=True, target_modules=MLP),
        ),
    ),
    "DoRA without metadata": (False, dict(unet=dict(r=4, lora_alpha=4, use_dora=True, target_modules=TRANSFORMER))),
    "lora_bias": (
        True,
        dict(
            unet=dict(r=4, lora_alpha=8, lora_bias=True, target_modules=["to_out.0", "ff.net.2", "proj_in", "conv2"]),
            text_encoder=dict(r=4, lora_alpha=2, lora_bias=True, target_modules=TEXT),
        ),
    ),
    "rslora": (True, dict(unet=dict(r=4, lora_alpha=3, use_rslora=True, target_modules=TRANSFORMER))),
    "mixed ranks": (
        False,
        dict(
            unet=dict(
                r=4,
                lora_alpha=4,
                target_modules=TRANSFORMER + ["conv"],
                rank_pattern={"to_k": 2, "ff.net.0.proj": 7},
                alpha_pattern={"to_k": 2, "ff.net.0.proj": 7},
            )
        ),
    ),
}


def diffusers_to_us(ours, base, report):
    def trained(name, metadata, configs):
        models, _ = make_peft(name, configs, base)
        file = ours.new("theirs.safetensors")
        save_by_diffusers(file, models, list(configs), metadata)
        return report.same(ours.forward([(file, 1.0)]), outputs(models, ours.inputs))

    def passed_on(name):
        """What diffusers made of a file of another spelling."""
        pipe = pipeline()
        pipe.load_lora_weights(str(FILES), weight_name=name, adapter_name="default")
        models = {c: getattr(pipe, c) for c in COMPONENTS}
        file = ours.new("passed-on.safetensors")
        save_by_diffusers(file, models, COMPONENTS)
        return report.same(ours.forward([(file, 1.0)]), outputs(models, ours.inputs))

    for name, (metadata, configs) in SAVED.items():
        report.case(f"diffusers saves {name}", lambda: trained(name, metadata, configs))
    for name in ("kohya.safetensors", "kohya_mixed_ranks.safetensors"):
        report.case(f"diffusers saves what it loaded from {name}", lambda: passed_on(name))


# ---- (b) we save, diffusers loads ------------------------------------------------------------------------------------

RESAVED = (
    "kohya",
    "kohya_layer_alphas",
    "kohya_some_alphas",
    "kohya_mixed_ranks",
    "kohya_te_only",
    "kohya_unet_only",
    "kohya_conv_dim",
    "peft_mixed_ranks",
    "peft_conv",
    "peft_dora",
    "peft_patterns",
    "peft_rslora",
    "peft_bias",
)
PICKLED = "peft.safetensors", "peft_mixed_ranks.safetensors"


def us_to_diffusers(ours, report):
    stored = load_file(OUT / "expected.safetensors")

    def same(saved, file):
        given = by_diffusers([(saved, 1.0)], ours.inputs)
        wanted = {c: stored.get(f"{file}@1.0.{c}", report.base[c]) for c in COMPONENTS}
        return within({c: relative(given[c], wanted[c]) for c in COMPONENTS}, OUTPUT, "outputs")

    def pickle(saved, file):
        tensors, original = torch.load(saved, weights_only=True), load_file(FILES / file)
        name = lambda key: key.replace("text_encoder.encoder", "text_encoder.text_model.encoder")
        assert {name(k) for k in original} == set(tensors), "other keys than in the original"
        assert all(torch.equal(tensors[name(k)], t) for k, t in original.items()), "other tensors than in the original"
        return same(saved, file)

    files = {f"{name}.safetensors": ours.resave(f"{name}.safetensors") for name in RESAVED}
    pickles = {file: ours.resave(file, pickle=True) for file in PICKLED}
    for file, saved in files.items():
        report.case(f"we save {file}", lambda: same(saved.result(), file))
    for file, saved in pickles.items():
        report.case(f"we pickle {file}", lambda: pickle(saved.result(), file))


# ---- (c) weights by block, (d) one and two adapters, fused and not ---------------------------------------------------


def file_of(name):
    return FILES / f"{name}.safetensors"


def by_blocks(ours, report):
    kohya, peft_file = file_of("kohya"), file_of("peft")
    cases = {
        "down, mid and up": [(kohya, {"unet": BLOCKS})],
        "one list": [(kohya, {"unet": {"up": {"block_1": [0.0, -0.7]}}})],
        "and the text encoder": [(kohya, {"unet": {"down": {"block_0": [0.4]}, "mid": 0}, "text_encoder": 0.3})],
        "of two adapters": [(kohya, {"unet": BLOCKS}), (peft_file, 0.4)],
    }
    for name, adapters in cases.items():
        wanted = lambda: by_diffusers(adapters, ours.inputs, 1.0)
        report.case(f"weights by block, {name}", lambda: report.both(ours, adapters, wanted))


def numbers(ours, report):
    cases = {
        "linear": [("peft", 0.8)],
        "negative weight": [("kohya", -0.7)],
        "convolutions": [("peft_conv", 0.8)],
        "kohya convolutions": [("kohya_conv", 0.8)],
        "DoRA": [("peft_dora", 0.6)],
        "bias": [("peft_bias", 0.8)],
        "two adapters": [("peft", 0.7), ("kohya", 0.4)],
        "two adapters with convolutions": [("kohya_conv", 0.7), ("peft_metadata", -0.4)],
        "adapters of one component each": [("kohya_te_only", 0.7), ("kohya_unet_only", 0.4)],
    }
    for name, named in cases.items():
        adapters = [(file_of(f), k) for f, k in named]
        wanted = lambda: by_diffusers(adapters, ours.inputs, 0.9)
        report.case(name, lambda: report.both(ours, adapters, wanted, 0.9))


# ---- (d) halves: rounded once ----------------------------------------------------------------------------------------


def half_a_unit(exact, dtype):
    """Half the distance between the numbers of that dtype around `exact`, which is in float64."""
    info = torch.finfo(dtype)
    exponent = torch.floor(torch.log2(exact.abs().clamp_min(info.smallest_normal)))
    return torch.exp2(exponent) * info.eps / 2


def exact_sum(base, adapters, component, path, dtype):
    """In float64, of what the models and the adapters are in that dtype."""
    weight = adaptable(base[component], component)[path].weight.to(dtype).double()
    total = weight
    for layers, k in adapters:
        if layer := layers.get(component, {}).get(path):
            A, B = (t.to(dtype).double().flatten(1) for t in (layer.A, layer.B))
            total = total + (k * layer.scale * B @ A).reshape(weight.shape)
    return total


def halves(ours, base, report):
    everything = lambda path: True
    made = []
    for name, alpha in (("half a", 2), ("half b", 3)):
        layers = random_layers(name, base, everything if name == "half a" else attention, alpha=alpha)
        file = ours.new("kohya.safetensors")
        save_tensors(kohya_keys(layers), file, kohya_metadata(4, alpha))
        made.append((file, layers))

    def rounded_once(dtype, weights):
        adapters = [(layers, k) for (_, layers), k in zip(made, weights)]
        files = [(file, k) for (file, _), k in zip(made, weights)]
        got = ours.forward(files, 1.0, str(dtype).removeprefix("torch.")).result()
        worst = 0.0  # in units in the last place
        for component, path, _ in each(made[0][1]):
            exact = exact_sum(base, adapters, component, path, dtype)
            fused = got[f"weights.{component}.{path}.weight"]
            assert fused.dtype == dtype
            off, half = (fused.double() - exact).abs(), half_a_unit(exact, dtype)
            assert (off <= half + 1e-6 * exact.abs().max()).all(), (path, (off - half).max().item())
            worst = max(worst, (off / half).max().item() / 2)
        return f"{worst:.3f} units in the last place"

    for dtype in (torch.float16, torch.bfloat16):
        for weights in ((0.7,), (0.7, -0.4)):
            name = f"{dtype} fused with {len(weights)} of {len(made)} adapters".removeprefix("torch.")
            report.case(name, lambda: rounded_once(dtype, weights))


# ---- (e) DoRA of kohya and LyCORIS -----------------------------------------------------------------------------------


def dora_norm(weight, by_output):
    """Over every other axis than that of outputs or inputs, which stays in the shape."""
    kept = 0 if by_output else 1
    return weight.pow(2).sum([i for i in range(weight.ndim) if i != kept], keepdim=True).sqrt()


def dora_formula(weight, layer, m, by_output, k):
    adapted = weight + layer.delta(weight.shape)
    whole = m.double() / (dora_norm(adapted, by_output) + torch.finfo(torch.float32).eps) * adapted
    return weight + k * (whole - weight)


def dora_file(file, name, layers, base, by_output):
    """The layers with a dora_scale each, by component and path."""
    scales, tensors = {}, kohya_keys(layers)
    modules = {c: adaptable(base[c], c) for c in COMPONENTS}
    for component, path, _ in each(layers):
        norm = dora_norm(modules[component][path].weight.detach(), by_output)
        m = norm * (1 + normal(f"{name}.{component}.{path}.m", norm.shape, 0.1))
        scales[component, path] = m
        flat = ("lora_unet_" if component == "unet" else "lora_te_") + path.replace(".", "_")
        tensors[flat + ".dora_scale"] = m
    save_tensors(tensors, file, kohya_metadata(4, 2))
    return scales


def lycoris_dora(ours, base, report):
    named = only("to_q", "to_v", "ff.net.2", "proj_in", "conv1", "conv2", "conv_shortcut", "out_proj", "fc1")
    layers = random_layers("lycoris dora", base, named, alpha=2)
    shapes = Counter(layer.A.ndim for _, _, layer in each(layers))
    assert shapes[2] and shapes[4], "both kinds of layers are wanted"

    def fused_and_not(by_output, k):
        name = f"by {'output' if by_output else 'input'}"
        file = ours.new("dora.safetensors")
        scales = dora_file(file, name, layers, base, by_output)
        models = merged(base, [])  # copies
        for component, path, layer in each(layers):
            module = adaptable(models[component], component)[path]
            exact = dora_formula(module.weight.data.double(), layer, scales[component, path], by_output, k)
            module.weight.data = exact.float()
        wanted = outputs(models, ours.inputs)
        return report.both(ours, [(file, k)], lambda: (wanted, wanted | all_weights(models)))

    for by_output in (True, False):
        for k in (1.0, -0.6):
            name = f"dora_scale of {'outputs' if by_output else 'inputs'} at {k}"
            report.case(name, lambda: fused_and_not(by_output, k))


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    check_versions()
    quiet()
    with tempfile.TemporaryDirectory() as folder:
        ours, base = Ours(sys.argv[1], Path(folder)), load_models()
        report = Report(outputs(base, ours.inputs))
        diffusers_to_us(ours, base, report)
        us_to_diffusers(ours, report)
        by_blocks(ours, report)
        numbers(ours, report)
        halves(ours, base, report)
        lycoris_dora(ours, base, report)
    if report.failures:
        sys.exit("\n".join([f"{len(report.failures)} failed:", *report.failures]))


if __name__ == "__main__":
    main()
