#!/usr/bin/env python3
"""Writes tests/data/lora: a tiny random UNet and text encoder, LoRA files on them in every spelling that SD files come
in, files that must be refused, and what the models give with them.

    python tools/reference/make_lora.py

Every expected output comes from the formula: each layer's weights plus the adapter's weight times alpha/rank times BA,
in float64, then the model in float32. Where diffusers and PEFT read a file right, what they give is stored beside it
("diffusers" names the tensors) and must agree; elsewhere "diffusers" says why they do not.

In cases.json a case loads its adapters, gives them their weights, fuses them with lora_scale where "fused" says so, and
then holds that the models give "outputs" for the inputs, within `tolerance` of the largest value. "files" lists for
each layer of each file the rank, the scale (alpha/rank) and the norm of the dense delta at weight 1; "refused" the
files that must not load, with the kind of error.
"""
import json
import shutil
from collections import OrderedDict

import torch
from common import check_versions, normal, quiet, relative, save_json, save_tensors, sizes
from lora_models import (
    COMPONENTS,
    OUT,
    QKVO,
    attention,
    load_models,
    make_inputs,
    make_models,
    merged,
    only,
    outputs,
    random_layers,
)
from lora_spellings import (
    FILES,
    compatible_keys,
    each,
    kohya_keys,
    kohya_metadata,
    make_peft,
    peft_keys,
    processor_keys,
    save_peft,
)

# ---- The files -------------------------------------------------------------------------------------------------------

WRONG_PER_LAYER = "diffusers takes the most frequent alpha for attention and text layers"


class Writer:
    """Collects the files: what each one holds, and why diffusers does not read it right where it does not."""

    def __init__(self, base):
        self.base, self.files = base, {}

    def add(self, name, layers, dialect, misread=None):
        self.files[name] = dict(layers=layers, dialect=dialect, misread=misread)

    def tensors(self, name, tensors, layers, dialect, misread=None, metadata=None, sort=True):
        tensors = {k: v.clone() for k, v in tensors.items()}
        save_tensors(tensors, FILES / name, metadata, sort)
        self.add(name, layers, dialect, misread)

    def random(self, name, chosen, **options):
        return random_layers(name, self.base, chosen, **options)


def write_peft(w):
    qkvo = ["to_q", "to_k", "to_v", "to_out.0"]
    transformer = qkvo + ["proj_in", "proj_out", "ff.net.0.proj", "ff.net.2"]
    convs = transformer + ["conv1", "conv2", "conv_shortcut", "conv", "time_emb_proj", "conv_in", "linear_1"]
    text = ["q_proj", "k_proj", "v_proj", "out_proj"]
    mlp = text + ["fc1", "fc2"]

    def add(name, metadata, binary=False, misread=None, **configs):
        models, layers = make_peft(name.split(".")[0], configs, w.base)
        save_peft(name, models, list(configs), metadata, binary)
        w.add(name, layers, "peft", misread)
        return models, layers

    plain = dict(
        unet=dict(r=4, lora_alpha=4, target_modules=transformer),
        text_encoder=dict(r=4, lora_alpha=4, target_modules=text),
    )
    models, layers = add("peft.safetensors", False, **plain)
    add("peft.bin", False, binary=True, **plain)
    add(
        "peft_metadata.safetensors",
        True,
        unet=dict(r=4, lora_alpha=8, target_modules=transformer),
        text_encoder=dict(r=4, lora_alpha=2, target_modules=mlp),
    )
    add(
        "peft_patterns.safetensors",
        True,
        unet=dict(
            r=4,
            lora_alpha=8,
            target_modules=transformer,
            rank_pattern={"to_k": 2, "mid_block.attentions.0.proj_in": 3, "^up_blocks.1.*to_v": 5},
            alpha_pattern={"attn2.to_q": 1, "to_q": 6, "ff.net.2": 3},
        ),
        text_encoder=dict(
            r=3, lora_alpha=6, target_modules=mlp, rank_pattern={"layers.1.mlp.fc1": 6}, alpha_pattern={"v_proj": 2}
        ),
    )
    add(
        "peft_rslora.safetensors",
        True,
        unet=dict(r=4, lora_alpha=3, use_rslora=True, target_modules=qkvo),
        text_encoder=dict(r=2, lora_alpha=3, use_rslora=True, target_modules=text),
    )
    add("peft_conv.safetensors", False, unet=dict(r=2, lora_alpha=2, target_modules=convs))
    ranks = {"to_k": 2, "ff.net.0.proj": 7}
    mixed = dict(r=4, lora_alpha=4, target_modules=transformer, rank_pattern=ranks, alpha_pattern=ranks)
    add("peft_mixed_ranks.safetensors", False, unet=mixed)
    add("peft_dora.safetensors", True, unet=dict(r=4, lora_alpha=8, use_dora=True, target_modules=qkvo + ["conv1"]))
    add(
        "peft_bias.safetensors",
        True,
        unet=dict(r=4, lora_alpha=8, lora_bias=True, target_modules=["to_out.0", "ff.net.2", "proj_in"]),
        text_encoder=dict(r=4, lora_alpha=4, lora_bias=True, target_modules=text),
    )

    from diffusers.utils import convert_state_dict_to_kohya

    converted = convert_state_dict_to_kohya(peft_keys(layers))
    w.tensors("kohya_from_diffusers.safetensors", converted, layers, "kohya")

    # PEFT's own folder, of the UNet alone.
    from peft import LoraConfig, get_peft_model_state_dict

    config = dict(unet=dict(r=4, lora_alpha=8, target_modules=qkvo, rank_pattern={"to_k": 2}))
    models, layers = make_peft("peft_folder", config, w.base)
    keys = {"base_model.model." + k: v for k, v in get_peft_model_state_dict(models["unet"]).items()}
    folder = "peft_folder/adapter_model.safetensors"
    w.tensors(folder, keys, layers, "peft", "diffusers does not know the prefix base_model.model.", {"format": "pt"})
    fields = LoraConfig(**config["unet"]).to_dict()
    fields = {k: sorted(v) if isinstance(v, set) else v for k, v in sorted(fields.items())}
    (FILES / "peft_folder" / "adapter_config.json").write_text(json.dumps(fields, indent=2) + "\n")


def write_old_diffusers(w):
    from diffusers.utils import convert_state_dict_to_diffusers

    unet_only = w.random("attn_procs", QKVO, components=["unet"])
    why = "diffusers loads keys without a prefix through load_attn_procs alone"
    w.tensors("attn_procs.safetensors", processor_keys(unet_only, False), unet_only, "diffusers", why)
    both = w.random("attn_procs_prefixed", QKVO)
    w.tensors("attn_procs_prefixed.safetensors", processor_keys(both, True), both, "diffusers")
    both = w.random("compatible", QKVO)
    w.tensors("compatible.safetensors", compatible_keys(both), both, "diffusers")

    # What training scripts write today: attention renamed, everything else not.
    mixed = w.random("mixed", lambda path: attention(path) and "mlp" not in path)
    keys = convert_state_dict_to_diffusers(peft_keys(mixed))
    old = {k: v for k, v in keys.items() if "lora_A" not in k and "lora_B" not in k}
    new = {k: v for k, v in keys.items() if k not in old}
    assert len(old) == 80 and len(new) == 32, (len(old), len(new))
    w.tensors("mixed_old_first.safetensors", {**old, **new}, mixed, "diffusers", sort=False)
    why = "diffusers drops the layers in the older spelling where the first key has lora_A"
    w.tensors("mixed_new_first.safetensors", {**new, **old}, mixed, "diffusers", why, sort=False)


def write_kohya(w):
    def add(name, chosen=attention, misread=None, save=None, metadata=None, dtype=None, **options):
        layers = w.random(name, chosen, **options)
        for _, _, layer in each(layers):
            if dtype:
                layer.A, layer.B = layer.A.to(dtype), layer.B.to(dtype)
        w.tensors(name, (save or kohya_keys)(layers), layers, "kohya", misread, metadata or kohya_metadata(4, 2))
        return layers

    plain = add("kohya.safetensors", alpha=2)
    add("kohya_linear.safetensors", lambda p: attention(p) and not p.endswith(("proj_in", "proj_out")), alpha=2)
    add("kohya_layer_alphas.safetensors", alpha=lambda i: [1, 2, 4, 8][i % 4], misread=WRONG_PER_LAYER)
    why = "diffusers gives the layers without an alpha that of the others"
    add("kohya_some_alphas.safetensors", alpha=lambda i: 1 if i % 2 else None, misread=why)
    add("kohya_no_alpha.safetensors")
    add("kohya_mixed_ranks.safetensors", rank=lambda i: 1 + i % 6, alpha=4)
    add("kohya_fp16.safetensors", alpha=2, dtype=torch.float16)
    add("kohya_unet_only.safetensors", alpha=8, components=["unet"], dtype=torch.float16)
    add("kohya_te_only.safetensors", alpha=2, components=["text_encoder"])
    some = only("attn1.to_q", "attn2.to_out.0", "ff.net.2", "out_proj")
    one_element = lambda alpha: torch.tensor([float(alpha)])
    add("kohya_1d_alpha.safetensors", some, alpha=2, save=lambda layers: kohya_keys(layers, alpha=one_element))
    add("kohya_int_alpha.safetensors", some, alpha=8, save=lambda layers: kohya_keys(layers, alpha=torch.tensor))

    # With convolutions: 3x3 and 1x1 of the residual blocks, and the samplers.
    in_blocks = lambda p: "_blocks." in p or p.startswith(("mid_block", "text_model"))
    metadata = kohya_metadata(2, 1, ss_network_args='{"conv_dim": "2", "conv_alpha": "1.0"}')
    add("kohya_conv.safetensors", in_blocks, rank=2, alpha=1, metadata=metadata)
    no_attention = lambda p: in_blocks(p) and "attn" not in p
    by_turns = dict(rank=lambda i: 2 + i % 2, alpha=lambda i: 1 + i % 2 * 2)
    add("kohya_conv_dim.safetensors", no_attention, components=["unet"], **by_turns)

    # Matrices where the model has 1x1 convolutions, and the reverse.
    layers = w.random("kohya_2d", only("proj_in", "proj_out", "to_q", "to_out.0"), components=["unet"])
    for _, path, layer in each(layers):
        tail = () if "proj_" in path else (1, 1)
        layer.A, layer.B = (x.reshape(*x.shape[:2], *tail) for x in (layer.A, layer.B))
        layer.alpha = 2
    why = "diffusers does not reshape"
    w.tensors("kohya_2d_projections.safetensors", kohya_keys(layers), layers, "kohya", why, kohya_metadata(4, 2))

    # A network's state_dict under torch.save: an OrderedDict that carries _metadata.
    keys = OrderedDict(sorted(kohya_keys(plain).items()))
    keys._metadata = OrderedDict({"": {"version": 1}})
    torch.save(keys, FILES / "kohya.pt")
    w.add("kohya.pt", plain, "kohya")


# ---- Files that must be refused --------------------------------------------------------------------------------------


def write_refused(w):
    folder, rows = OUT / "refused", []

    def add(name, tensors, kind, why):
        save_tensors({k: v.clone() for k, v in tensors.items()}, folder / name)
        rows.append(dict(file=f"refused/{name}", kind=kind, why=why))

    without = lambda tensors, key: {k: v for k, v in tensors.items() if k != key}
    one = w.random("refused", only("attn1.to_q", "attn2.to_k", "q_proj"), alpha=4)
    kohya, peft = kohya_keys(one), peft_keys(one)
    down = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q.lora_down.weight"
    B = "text_encoder.text_model.encoder.layers.1.self_attn.q_proj.lora_B.weight"
    to_k = "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k.lora_"
    add("half_pair_kohya.safetensors", without(kohya, down), "bad_key", "an up without its down")
    add("half_pair_peft.safetensors", without(peft, B), "bad_key", "an A without its B")
    unet = dict(list(w.base["unet"].state_dict().items())[:12])
    add("not_a_lora.safetensors", unet, "bad_key", "the UNet's own weights")
    add("empty.safetensors", {}, "bad_key", "no tensors at all")
    A, wide = to_k + "A.weight", to_k + "B.weight"
    add("bad_shape_in.safetensors", {**peft, A: normal("wide", (4, 17))}, "bad_shape", "A has one input too many")
    tall = {**peft, wide: normal("tall", (19, 4))}
    add("bad_shape_out.safetensors", tall, "bad_shape", "B has one output too few")
    add("bad_rank.safetensors", {**peft, wide: normal("rank", (20, 3))}, "bad_shape", "A and B differ in rank")
    add("nan.safetensors", {**peft, A: peft[A] * float("nan")}, "bad_file", "NaN in one matrix")
    add("infinity.safetensors", {**peft, A: peft[A] * float("inf")}, "bad_file", "infinity in one matrix")
    sd15 = {}
    for leaf in ("to_k", "to_v"):
        n = f"lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_{leaf}"
        sd15[n + ".lora_down.weight"] = normal(n, (2, 768)).half()
        sd15[n + ".lora_up.weight"] = normal(n + "u", (1280, 2)).half()
    add("sd15.safetensors", sd15, "bad_shape", "made for Stable Diffusion 1: text states of 768")
    sdxl = {}
    for block, width in (("input_blocks_4_1", 640), ("middle_block_1", 1280), ("output_blocks_0_1", 1280)):
        n = f"lora_unet_{block}_transformer_blocks_0_attn2_to_k"
        sdxl[n + ".lora_down.weight"] = normal(n, (1, 2048)).half()
        sdxl[n + ".lora_up.weight"] = normal(n + "u", (width, 1)).half()
        sdxl[n + ".alpha"] = torch.tensor(1.0).half()
    n = "lora_te2_text_model_encoder_layers_31_self_attn_q_proj"
    sdxl[n + ".lora_down.weight"] = normal(n, (1, 1280)).half()
    sdxl[n + ".lora_up.weight"] = normal(n + "u", (1280, 1)).half()
    add("wrong_architecture.safetensors", sdxl, "bad_shape", "made for SDXL: its names, text states of 2048")
    rename = lambda k: k.replace("mid_block", "far_block").replace("_blocks.", "_walls.").replace("layers.", "lairs.")
    strange = {rename(k): v for k, v in peft.items()}
    add("unknown_layers.safetensors", strange, "bad_key", "well formed, but no layer of it is in the model")
    return rows


# ---- Cases -----------------------------------------------------------------------------------------------------------


ALL_WEIGHTS = ("peft.safetensors", "kohya.safetensors", "kohya_conv.safetensors")
ONE_WEIGHT = ("peft.bin", "kohya.pt", "kohya_1d_alpha.safetensors")
FUSED = (*ALL_WEIGHTS, *(f + ".safetensors" for f in ("peft_patterns", "kohya_layer_alphas", "peft_dora", "peft_bias")))
PAIRS = (
    ("peft", "kohya"),
    ("kohya_conv", "peft_metadata"),
    ("kohya_te_only", "kohya_unet_only"),
    ("kohya_mixed_ranks", "kohya_layer_alphas"),
    ("compatible", "attn_procs"),
)


def make_cases(files):
    """(name, [(file, weight)], fused, lora_scale)"""
    cases = []
    for file in files:
        for weight in (1.0, 0.5, -0.7) if file in ALL_WEIGHTS else (1.0,) if file in ONE_WEIGHT else (1.0, -0.7):
            cases.append((f"{file}@{weight}", [(file, weight)], False, 1.0))
    for file in FUSED:
        cases.append((f"{file} fused@0.8", [(file, 1.0)], True, 0.8))
    for a, b in PAIRS:
        pair = [(f"{a}.safetensors", 0.7), (f"{b}.safetensors", 0.4)]
        cases.append((f"{a}@0.7 + {b}@0.4", pair, False, 1.0))
        cases.append((f"{a}@0.7 + {b}@0.4 fused@0.8", pair, True, 0.8))
    three = [("peft.safetensors", 0.5), ("kohya.safetensors", 0.25), ("compatible.safetensors", -0.7)]
    cases.append(("three", three, False, 1.0))
    return cases


def pipeline():
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    nothing = dict(vae=None, tokenizer=None, safety_checker=None, feature_extractor=None, requires_safety_checker=False)
    return StableDiffusionPipeline(**load_models(), scheduler=DDIMScheduler(), **nothing)


def diffusers_outputs(adapters, fused, lora_scale, inputs):
    pipe = pipeline()
    names = [chr(ord("a") + i) for i in range(len(adapters))]
    for name, (file, _) in zip(names, adapters):
        path = FILES / file
        pipe.load_lora_weights(str(path.parent), weight_name=path.name, adapter_name=name)
    pipe.set_adapters(names, [weight for _, weight in adapters])
    if fused:
        pipe.fuse_lora(components=list(COMPONENTS), lora_scale=lora_scale)
    return outputs({c: getattr(pipe, c) for c in COMPONENTS}, inputs)


def run_cases(base, files, inputs):
    expected = dict(inputs)
    for component, value in outputs(base, inputs).items():
        expected[f"base.{component}"] = value
    rows, worst = [], (0.0, "")
    for name, adapters, fused, lora_scale in make_cases(files):
        formula = outputs(merged(base, [(files[f]["layers"], k * lora_scale) for f, k in adapters]), inputs)
        misread = next((files[f]["misread"] for f, _ in adapters if files[f]["misread"]), None)
        try:
            theirs = diffusers_outputs(adapters, fused, lora_scale, inputs)
            gap = max(relative(theirs[c], formula[c]) for c in COMPONENTS)
        except (ValueError, RuntimeError, KeyError) as error:
            theirs, gap = None, f"{type(error).__name__}: {str(error)[:90]}"
        agrees = theirs is not None and gap < 1e-5
        if agrees != (misread is None):
            raise SystemExit(f"{name}: difference to diffusers {gap}, expected: {misread or 'none'}")
        worst = max(worst, (gap, name)) if agrees else worst
        touched = sorted({c for f, _ in adapters for c in files[f]["layers"]}, reverse=True)
        row = dict(
            name=name,
            adapters=[dict(file=f"files/{f}", adapter_name=chr(97 + i), weight=k) for i, (f, k) in enumerate(adapters)],
            fused=fused,
            lora_scale=lora_scale,
            outputs={c: f"{name}.{c}" if c in touched else f"base.{c}" for c in COMPONENTS},
            diffusers={c: f"{name}.{c}.diffusers" for c in touched} if agrees else misread,
        )
        for component in COMPONENTS:
            assert torch.isfinite(formula[component]).all()
            if component not in touched:
                assert torch.equal(formula[component], expected[f"base.{component}"])
                continue
            expected[row["outputs"][component]] = formula[component]
            if agrees:
                expected[row["diffusers"][component]] = theirs[component]
        rows.append(row)
    print(f"{len(rows)} cases; largest difference to diffusers where it is right: {worst[0]:.1e}, in {worst[1]}")
    return expected, rows


def check_sensitivity(base, files, inputs):
    """Every layer must show: without any one of them, some output moves by 20 times the tolerance of the tests."""
    for file in ("kohya_conv.safetensors", "peft_conv.safetensors", "peft_metadata.safetensors"):
        layers = files[file]["layers"]
        full = outputs(merged(base, [(layers, 1.0)]), inputs)
        for component, path, _ in each(layers):
            less = {c: {p: x for p, x in of.items() if (c, p) != (component, path)} for c, of in layers.items()}
            moved = relative(outputs(merged(base, [(less, 1.0)]), inputs)[component], full[component])
            assert moved > 2e-4, (file, path, moved)


def describe(file, about):
    """A file's layers, so that a report can be checked, and a wrong layer found."""
    layers = {}
    for component, of in about["layers"].items():
        layers[component] = {}
        for path, layer in of.items():
            shape = (layer.B.shape[0], layer.A[0].numel())
            layers[component][path] = [layer.rank, round(layer.scale, 9), round(layer.delta(shape).norm().item(), 6)]
    return dict(file=f"files/{file}", dialect=about["dialect"], layers=layers)


def main():
    check_versions()
    quiet()
    shutil.rmtree(OUT, ignore_errors=True)
    make_models()
    base, inputs = load_models(), make_inputs()
    writer = Writer(base)
    FILES.mkdir()
    write_peft(writer)
    write_old_diffusers(writer)
    write_kohya(writer)
    refused = write_refused(writer)
    check_sensitivity(base, writer.files, inputs)
    expected, cases = run_cases(base, writer.files, inputs)
    save_tensors(expected, OUT / "expected.safetensors")
    files = [describe(f, about) for f, about in writer.files.items()]
    names = {k.split(".")[1]: k for k in inputs}
    table = dict(
        tolerance=1e-5,
        inputs=names,
        base={c: f"base.{c}" for c in COMPONENTS},
        cases=cases,
        refused=refused,
        layer_fields=["rank", "scale", "norm"],
        files=files,
    )
    save_json(table, OUT / "cases.json")
    print(sizes(OUT), sizes(OUT / "model"))


if __name__ == "__main__":
    main()
