#!/usr/bin/env python3
"""Writes tests/data/dialects: LoRA files in every spelling and of every algorithm, each made by its trainer's own rule,
and what they do to tiny models by formula.

    python tools/reference/make_dialects.py

Layers of LyCORIS' kinds come from its own classes and PEFT's from PEFT's; what they compute is compared with the
formula (dialect_algorithms.py). Names are written from the tables of dialect_models.py and dialect_spellings.py.

cases.json has "models": configs by component; weights are made from names (tiny.py). "files": the model, the
`dialect` and the `architecture` that a reader must find, and by component and path of each layer its algorithm, its
rank and whether a strength only multiplies it; expected.safetensors has its difference at strength 1 as
`<file>|<component>.<path>.weight` and `.bias`. "malformed": what must happen, either the kind of the `error` and a part of
its message, or how many layers load, and what must be said of the rest.
"""

import json
import shutil

import torch
from common import check_versions, quiet, save_json, save_tensors, sizes
from dialect_algorithms import Layer, kohya_oft, lora, lycoris, oft_v2_layer, old_glora, peft
from dialect_files import (
    AMUSED_PATHS,
    BLOCK,
    FLUX_NAMES,
    KINDS,
    MMDIT,
    MMDIT_EMBEDDERS,
    MMDIT_SWAPPED,
    OUT,
    SD3_PATHS,
    SD_ATTENTION,
    SD_CONVOLUTIONS,
    SD_QKVO,
    T5,
    TEXT,
    TEXT_EMBEDDINGS,
    XL_ATTENTION,
    XL_CONVOLUTIONS,
    XL_REST,
    Writer,
    flux_rows,
    native_rows,
    of,
    on,
    plain,
    to_sgm,
)
from dialect_models import FLUX_WIDTH, check_names, flux, make_model, mmdit, models, module, random
from dialect_odd import write_cloneofsimo, write_malformed, write_odd
from dialect_spellings import (
    FACTORS,
    Row,
    bare,
    comfy,
    comfy_factors,
    compatible,
    diffusers,
    flat,
    kohya,
    kohya_oft_names,
    kohya_sd3,
    kohya_xl,
    mixed,
    omi,
    onetrainer_legacy,
    peft_bare,
    peft_on_components,
    prefixed,
    processors,
    renamed,
    simpletuner,
    text_processors_twice,
    xlabs,
)

# ---- kohya -----------------------------------------------------------------------------------------------------------


def kohya_metadata(module="networks.lora", **more):
    return {"ss_network_module": module, "ss_network_dim": "2", "ss_network_alpha": "1", **more}


def write_kohya(w):
    SD1 = "SD 1.x"

    def sd(name, paths, make=plain(), text=TEXT, dialect="kohya", spell=kohya, **more):
        file = f"kohya/{name}.safetensors"
        rows = on("sd", "unet", paths, make, file) + on("sd", "text_encoder", text, make, file)
        w.add(file, "sd", rows, spell, dialect, SD1, metadata=kohya_metadata(ss_base_model_version="sd_v1"), **more)

    sd("lora", SD_ATTENTION + [TEXT_EMBEDDINGS])
    sd("locon", SD_ATTENTION + SD_CONVOLUTIONS, text=TEXT[:1])
    sd("conv_dims", SD_CONVOLUTIONS, lambda n, at, i: lora(n, at, 1 if at.weight.ndim == 4 else 3, 0.5 * (i + 1)), [])
    sd("mixed_ranks", SD_ATTENTION, lambda n, at, i: lora(n, at, 1 + 2 * i % 5, [4, 1, 0.5, 2, 3][i]))
    sd("no_alpha", SD_ATTENTION, plain(alpha=None))
    sd("some_alphas", SD_ATTENTION, lambda n, at, i: lora(n, at, 2, 0.5 if i % 2 else None))
    for name, edit in (
        ("int_alpha", lambda a: a.long()),
        ("vector_alpha", lambda a: a.reshape(1)),
        ("bf16_alpha", lambda a: a.bfloat16()),
        ("double_alpha", lambda a: a.double()),
    ):

        def make(n, at, i, edit=edit):
            layer = lora(n, at, 2, 1 + i)
            layer.tensors["alpha"] = edit(layer.tensors["alpha"])
            return layer

        sd(name, SD_ATTENTION[:3], make, TEXT[:1])
    sd("zero_alpha", SD_ATTENTION[:3], lambda n, at, i: lora(n, at, 2, 0.0 if i == 1 else 1.0), [])
    for name, dtype in (
        ("fp16", torch.float16),
        ("bf16", torch.bfloat16),
        ("fp8_e4m3", torch.float8_e4m3fn),
        ("fp8_e5m2", torch.float8_e5m2),
    ):
        sd(name, SD_ATTENTION[:3] + SD_CONVOLUTIONS[:1], plain(dtype=dtype), TEXT[:1])

    # LyCORIS' DyLoRA leaves the second factor of a convolution a matrix.
    sd("dylora", SD_CONVOLUTIONS + SD_ATTENTION[:1], lambda n, at, i: lora(n, at, 4, 2, conv_up=2), [])
    # LoRA-FA trains one factor; the file holds both.
    sd("lora_fa", SD_ATTENTION[:2], plain(4, 4), TEXT[:1])
    # Resizing to a dynamic rank: every layer its own, alpha with it.
    sd("resized", SD_ATTENTION, lambda n, at, i: lora(n, at, [1, 4, 2, 3, 5, 1, 2, 3][i], [1, 4, 2, 3, 5, 1, 2, 3][i]))
    # Factors of a linear layer where the model has a 1×1 convolution, and the reverse.
    file = "kohya/linear_for_1x1.safetensors"
    rows = on("sd", "unet", ["down_blocks.0.attentions.1.proj_in", SD_ATTENTION[0]], plain(), file)
    for i, row in enumerate(rows):
        t = row.layer.tensors
        for k in ("lora_down.weight", "lora_up.weight"):
            t[k] = t[k].flatten(1) if i == 0 else t[k][:, :, None, None]
    w.add(file, "sd", rows, kohya, "kohya")

    # SD 2.x: the same names, text embeddings of another width.
    file = "kohya/sd2.safetensors"
    rows = on("sd2", "unet", SD_ATTENTION[:2] + [TEXT_EMBEDDINGS], plain(), file) + on(
        "sd2", "text_encoder", TEXT[:1], plain(), file
    )
    w.add(file, "sd2", rows, kohya, "kohya", "SD 2.x", metadata=kohya_metadata(ss_v2="True"))

    # A1111's explicit scale counts before the alpha.
    file = "kohya/explicit_scale.safetensors"
    rows = on("sd", "unet", SD_ATTENTION[:3], plain(), file)
    for i, row in enumerate(rows):
        row.layer.tensors["scale"] = torch.tensor(0.25 + i)
    del rows[2].layer.tensors["alpha"]
    w.add(file, "sd", rows, kohya, "kohya")

    file = "kohya/oft.safetensors"
    make = lambda n, at, i: kohya_oft(n, at, 2, [1e-3, 0.05, 1.0][i])
    rows = on("sd", "unet", [SD_ATTENTION[0], SD_ATTENTION[2], SD_CONVOLUTIONS[0]], make, file)
    w.add(file, "sd", rows, kohya_oft_names, "kohya", metadata=kohya_metadata("networks.oft"))

    # As diffusers' convert_state_dict_to_kohya writes: dots may stay, alpha is the rank as an int.
    file = "kohya/from_diffusers.safetensors"
    rows = on("sd", "unet", SD_ATTENTION, plain(2, 2), file) + on("sd", "text_encoder", TEXT, plain(2, 2), file)
    for row in rows:
        row.layer.tensors["alpha"] = row.layer.tensors["alpha"].long()
    w.add(file, "sd", rows, flat({"unet": "lora_unet_", "text_encoder": "lora_te1_"}), "kohya")


def write_kohya_xl(w):
    def xl(
        name, paths, model_names=True, text=TEXT, text_2=TEXT, make=plain(), spell=kohya_xl, dialect="kohya", **more
    ):
        file = f"{name}.safetensors"
        rows = on("sdxl", "unet", paths, make, file)
        rows += on("sdxl", "text_encoder", text, make, file) + on("sdxl", "text_encoder_2", text_2, make, file)
        content = spell(to_sgm(rows, "sdxl") if model_names else rows)
        w.add(file, "sdxl", rows, None, dialect, tensors=content, **more)

    xl("kohya_xl/sgm", XL_ATTENTION + XL_CONVOLUTIONS, text_2=TEXT[:2] + ["text_projection"], architecture="SDXL")
    xl("kohya_xl/sgm_rest", XL_REST, text=[], text_2=[], architecture="SDXL")
    width = [f"down_blocks.1.attentions.0.{BLOCK}.attn2.to_k"]
    xl("kohya_xl/sgm_width", width, text=[], text_2=[], make=plain(1), architecture="SDXL")
    xl(
        "kohya_xl/diffusers_names",
        XL_ATTENTION + XL_CONVOLUTIONS[:2] + XL_REST,
        False,
        text=TEXT[:1],
        text_2=TEXT[:1],
        architecture="SDXL",
    )
    # LCM-LoRA: diffusers' names, alphas in half precision, no text encoder.
    xl("kohya_xl/lcm", XL_ATTENTION + XL_CONVOLUTIONS, False, [], [], plain(2, 1, torch.float16))
    # A file of SD 1.x' makers: the only text encoder is the first.
    xl("kohya_xl/lora_te", [XL_ATTENTION[0]], True, TEXT[:1], [], spell=kohya)


def write_kohya_sd3(w):
    SD3 = "SD 3"

    def sd3(name, names, make=plain(), texts=(), spell=kohya_sd3, dialect="kohya", **more):
        file = f"{name}.safetensors"
        rows = native_rows(names, make, file)
        for component, paths in texts:
            rows += on("sd3", component, paths, make, file)
        w.add(file, "sd3", rows, spell, dialect, more.pop("architecture", SD3), **more)

    texts = [("text_encoder", TEXT), ("text_encoder_2", TEXT[:2] + ["text_projection"]), ("text_encoder_3", T5)]
    sd3("kohya_sd3/lora", MMDIT + MMDIT_SWAPPED, texts=texts)
    sd3("kohya_sd3/embedders", MMDIT_EMBEDDERS)
    sd3("kohya_sd3/split_qkv", MMDIT[:3], split_qkv)
    for kind in ("loha", "lokr", "diff"):
        options = dict(lora_dim=2, alpha=1)
        if kind == "lokr":
            options["factor"] = 4
        sd3(f"kohya_sd3/{kind}", [MMDIT[0], MMDIT[1], MMDIT_SWAPPED[1]], of(kind, **options))
    sd3("kohya_sd3/lokr_whole", [MMDIT[0], MMDIT_SWAPPED[1]], of("lokr", lora_dim=2, factor=4, full_matrix=True))
    # With a factor of 4 no third of the rows is some rows of w1; with 16 w1 has a row for each third.
    sd3("kohya_sd3/lokr_thirds", MMDIT[:2], of("lokr", lora_dim=1, alpha=1, factor=16))
    sd3(
        "kohya_sd3/dora", [MMDIT[0], MMDIT[3], MMDIT_SWAPPED[1]], of("lora", lora_dim=2, alpha=1, weight_decompose=True)
    )
    sd3("kohya_sd3/glora", [MMDIT[0], MMDIT_SWAPPED[1]], of("glora", lora_dim=2, alpha=1))
    sd3("kohya_sd3/ia3", [MMDIT[0], MMDIT[3]], of("ia3"))
    sd3("kohya_sd3/ia3_input", [MMDIT[0], MMDIT[3]], of("ia3", train_on_input=True))
    sd3("kohya_sd3/oft", [MMDIT[0], MMDIT[3]], of("oft", lora_dim=4, constraint=0))

    # The same model under ComfyUI's and OMI's names.
    sd3("comfy/sd3", MMDIT + MMDIT_SWAPPED, plain(), texts[:2], comfy, "comfy")
    sd3("comfy/sd3_factors", MMDIT, plain(alpha=None), [], comfy_factors, "comfy")
    sd3("omi/sd3_fused", MMDIT, plain(), [], omi, "omi")
    write_omi_sd3(w)


def split_qkv(name, at, i):
    """kohya's split_qkv: three adapters of rank r in one, block by block; alpha is what it was for each."""
    r, thirds = 2, at.weight.shape[0] // 3
    part = torch.nn.Linear(at.weight.shape[1], thirds)
    layers = [lora(f"{name}.{k}", part, r, 3 * r) for k in "qkv"]
    up = torch.block_diag(*[l.tensors["lora_up.weight"] for l in layers])
    down = torch.cat([l.tensors["lora_down.weight"] for l in layers])
    return Layer({"lora_down.weight": down, "lora_up.weight": up, "alpha": torch.tensor(2.0)}, "lora")


def write_omi_sd3(w):
    """OneTrainer's OMI: native names, but q, k and v as numbered layers below the fused one."""
    file = "omi/sd3.safetensors"
    rows = native_rows(MMDIT[3:] + MMDIT_SWAPPED, plain(), file)
    content = omi(rows)
    for name in MMDIT[:3]:
        for i, path in enumerate(mmdit(name).paths):
            layer = lora(f"{file}.{path}", module("sd3", "transformer", path), 2, 1.0)
            rows.append(Row("transformer", path, layer))
            content |= omi([Row("transformer", f"{name}.{i}", layer)])
    for component, paths in (("text_encoder", TEXT[:1]), ("text_encoder_2", TEXT[:1]), ("text_encoder_3", T5)):
        more = on("sd3", component, paths, plain(), file)
        rows, content = rows + more, content | omi(more)
    w.add(file, "sd3", rows, None, "omi", "SD 3", tensors=content)


# ---- LyCORIS ---------------------------------------------------------------------------------------------------------


def lycoris_kinds():
    """name -> (kind, options)"""
    small = dict(lora_dim=2, alpha=1)
    kinds = {
        "locon": ("lora", small),
        "locon_tucker": ("lora", dict(small, use_tucker=True)),
        "locon_rs": ("lora", dict(small, rs_lora=True)),
        "locon_scalar": ("lora", dict(small, use_scalar=True)),
        "loha": ("loha", small),
        "loha_tucker": ("loha", dict(small, use_tucker=True)),
        "loha_rs_scalar": ("loha", dict(small, rs_lora=True, use_scalar=True)),
        "lokr": ("lokr", dict(lora_dim=1, alpha=2, factor=2)),
        "lokr_tucker": ("lokr", dict(lora_dim=1, alpha=2, factor=2, use_tucker=True)),
        "lokr_both": ("lokr", dict(lora_dim=1, alpha=0.5, factor=4, decompose_both=True)),
        "lokr_whole": ("lokr", dict(lora_dim=1, alpha=3, factor=4, full_matrix=True)),
        "lokr_rs": ("lokr", dict(lora_dim=2, alpha=1, factor=2, rs_lora=True)),
        "lokr_unbalanced": ("lokr", dict(lora_dim=1, alpha=1, factor=4, unbalanced_factorization=True)),
        "lokr_scalar": ("lokr", dict(lora_dim=1, alpha=1, factor=2, use_scalar=True)),
        "glora": ("glora", small),
        "glora_scalar": ("glora", dict(small, use_scalar=True)),
        "ia3": ("ia3", {}),
        "ia3_input": ("ia3", dict(train_on_input=True)),
        "diag_oft": ("oft", dict(lora_dim=4, constraint=0)),
        "diag_oft_constraint": ("oft", dict(lora_dim=4, constraint=0.02)),
        "diag_oft_rescaled": ("oft", dict(lora_dim=4, constraint=0, rescaled=True)),
        "boft": ("boft", dict(lora_dim=2, constraint=0)),
        "boft_constraint_rescaled": ("boft", dict(lora_dim=4, constraint=0.02, rescaled=True)),
        "full": ("diff", {}),
    }
    for kind in ("lora", "loha", "lokr"):
        for axis in (True, False):
            options = dict(small, factor=2) if kind == "lokr" else small
            name = {"lora": "dora", "loha": "doha", "lokr": "dokr"}[kind] + ("" if axis else "_input")
            kinds[name] = (kind, dict(options, weight_decompose=True, wd_on_out=axis))
    return kinds


def write_lycoris(w):
    metadata = kohya_metadata("lycoris.kohya")
    for name, (kind, options) in lycoris_kinds().items():
        file = f"lycoris/{name}.safetensors"
        rows = on("sd", "unet", KINDS, of(kind, **options), file) + on(
            "sd", "text_encoder", TEXT[:1], of(kind, **options), file
        )
        w.add(file, "sd", rows, kohya, "kohya", metadata=metadata)

    file = "lycoris/glora_old.safetensors"
    rows = on("sd", "unet", KINDS[:2], lambda n, at, i: old_glora(n, at), file)
    w.add(file, "sd", rows, kohya, "kohya")

    # Everything of one model: factors, full differences, norms and biases.
    file = "lycoris/everything.safetensors"
    rows = on("sd", "unet", KINDS[:1], of("lora", lora_dim=2, alpha=1), file)
    rows += on("sd", "unet", ["conv_in", "time_embedding.linear_1"], of("diff"), file)
    rows += on(
        "sd", "unet", ["down_blocks.0.resnets.0.norm1", f"mid_block.attentions.0.{BLOCK}.norm2"], of("norm"), file
    )
    rows += on("sd", "text_encoder", ["text_model.final_layer_norm"], of("norm"), file)
    out = on("sd", "unet", [SD_ATTENTION[1]], of("lora", lora_dim=2, alpha=1), file)
    out[0].layer.tensors["diff_b"] = random(file + ".diff_b", (16,), 0.2)
    bias = Row("unet", "mid_block.resnets.0.conv1", Layer({"diff_b": random(file + ".bias", (16,), 0.2)}, "diff"))
    w.add(file, "sd", [*rows, *out, bias], kohya, "kohya", metadata=metadata)

    # A convolution of groups: every kind is of a weight with fewer inputs.
    for kind, options in (
        ("lora", dict(lora_dim=2, alpha=1)),
        ("lokr", dict(lora_dim=1, alpha=1, factor=4)),
        ("oft", dict(lora_dim=4, constraint=0)),
    ):
        file = f"lycoris/{kind}_groups.safetensors"
        rows = on(
            "amused", "transformer", ["up_block.res_blocks.0.depthwise", AMUSED_PATHS[0]], of(kind, **options), file
        )
        w.add(file, "amused", rows, simpletuner, "lycoris", "aMUSEd")

    # LyCORIS' wrapper around diffusers' models, as SimpleTuner uses it.
    make = of("lokr", lora_dim=2, alpha=1, factor=4)
    for model, component, paths, architecture in (
        ("sd3", "transformer", SD3_PATHS, "SD 3"),
        ("sdxl", "unet", XL_ATTENTION, ""),
    ):
        file = f"lycoris/simpletuner_{model}.safetensors"
        w.add(file, model, on(model, component, paths, make, file), simpletuner, "lycoris", architecture)


# ---- OneTrainer ------------------------------------------------------------------------------------------------------


def write_onetrainer(w):
    metadata = {"ot_branch": "master", "modelspec.sai_model_spec": "1.0.0"}

    def convolutions_4d(name, at, i):
        """OneTrainer leaves the factors of a convolution's LoHa four-dimensional."""
        layer = lycoris("loha", name, at, lora_dim=2, alpha=1)
        if at.weight.ndim == 4:
            t = layer.tensors
            for n in "12":
                t[f"hada_w{n}_a"] = t[f"hada_w{n}_a"][:, :, None, None]
                t[f"hada_w{n}_b"] = t[f"hada_w{n}_b"].reshape(-1, *at.weight.shape[1:])
        return layer

    made = {
        "loha": convolutions_4d,
        "lokr": of("lokr", lora_dim=2, alpha=1, factor=2),
        "dora": of("lora", lora_dim=2, alpha=1, weight_decompose=True, wd_on_out=False),
    }
    for name, make in made.items():
        file = f"onetrainer/{name}.safetensors"
        rows = on("sd", "unet", KINDS, make, file) + on("sd", "text_encoder", TEXT[:1], make, file)
        w.add(file, "sd", rows, kohya, "kohya", metadata=metadata)
    for name, options in (("oft", {}), ("oft_shared", dict(shared=True)), ("oft_scaled", dict(scaled=True))):
        file = f"onetrainer/{name}.safetensors"
        rows = on("sd", "unet", KINDS[:2], lambda n, at, i: oft_v2_layer(n, at, **options), file)
        w.add(file, "sd", rows, kohya, "kohya", metadata=metadata)

    file = "onetrainer/legacy_sd3.safetensors"
    rows = on("sd3", "transformer", SD3_PATHS, plain(), file)
    for component in ("text_encoder", "text_encoder_2"):
        rows += on("sd3", component, TEXT[:1] + ["text_projection"], plain(), file)
    w.add(file, "sd3", rows, onetrainer_legacy, "onetrainer + kohya", "SD 3", metadata=metadata)

    file = "onetrainer/legacy_sdxl.safetensors"
    rows = on("sdxl", "unet", XL_ATTENTION + XL_REST[2:4], plain(), file)
    rows += on("sdxl", "text_encoder_2", ["text_projection", TEXT[0]], plain(), file)
    w.add(file, "sdxl", rows, kohya_xl, "kohya", "SDXL", metadata=metadata)

    # PEFT's magnitude with ".weight" behind it.
    file = "onetrainer/comfy_dora.safetensors"
    rows = on("sd", "unet", KINDS[:2], plain(), file)
    for row in rows:
        t, W = row.layer.tensors, module("sd", "unet", row.name).weight
        t["lora_magnitude_vector"] = W.detach().norm(dim=1) * (1 + 0.2 * random(row.name, W.shape[:1]))
        row.layer.algorithm = "dora"
    named = {**FACTORS, "lora_magnitude_vector": "lora_magnitude_vector.weight"}
    w.add(file, "sd", rows, prefixed({"unet": "unet."}, named), "diffusers", metadata=metadata)

    for model, attention in (("sdxl", XL_ATTENTION + XL_CONVOLUTIONS[:2]), ("sd", SD_ATTENTION + SD_CONVOLUTIONS[:2])):
        for name, spell, dialect in (("omi", omi, "omi"), ("comfy", comfy, "comfy")):
            file = f"{name}/{model}.safetensors"
            rows = on(model, "unet", attention, plain(), file) + on(model, "text_encoder", TEXT[:1], plain(), file)
            architecture = ""
            if model == "sdxl":
                rows += on(model, "text_encoder_2", TEXT[:1], plain(), file)
                architecture = "SDXL"
            w.add(file, model, rows, None, dialect, architecture, tensors=spell(to_sgm(rows, model)), metadata=metadata)


# ---- diffusers and PEFT ----------------------------------------------------------------------------------------------


def write_diffusers(w):
    none = plain(alpha=None)
    for name, spell, dialect, text in (
        ("attn_procs", processors(False), "diffusers-attn-procs", []),
        ("attn_procs_prefixed", processors(True), "diffusers-attn-procs", TEXT[:2]),
        ("compatible", compatible, "diffusers-2023", TEXT),
        ("mixed", mixed, "diffusers + diffusers-2023", TEXT),
        ("factors", diffusers, "diffusers", TEXT),
    ):
        file = f"diffusers/{name}.safetensors"
        paths = SD_QKVO if "procs" in name else SD_QKVO[:2] + SD_ATTENTION[2:] + SD_CONVOLUTIONS[:2]
        rows = on("sd", "unet", paths, none, file) + on("sd", "text_encoder", text, none, file)
        w.add(file, "sd", rows, spell, dialect, metadata={"format": "pt"})

    file = "diffusers/attn_procs_twice.safetensors"
    text = on("sd", "text_encoder", TEXT[:2], none, file)
    unet = on("sd", "unet", SD_QKVO[:2], none, file)
    content = {**processors(True)(unet), **text_processors_twice(text)}
    w.add(file, "sd", unet + text, None, "diffusers-attn-procs", tensors=content, unmatched=12)

    # PEFT's strengths are in the metadata alone.
    file = "diffusers/metadata.safetensors"
    rows = on("sd", "unet", SD_QKVO[:3], none, file) + on("sd", "text_encoder", TEXT[:1], none, file)
    for row in rows:
        row.layer.scale = 1.5 if row.name.endswith("to_k") else 3 / 2**0.5 if row.component != "unet" else 4.0
    config = {
        "unet.r": 2,
        "unet.lora_alpha": 8,
        "unet.alpha_pattern": {"to_k": 3},
        "text_encoder.r": 2,
        "text_encoder.lora_alpha": 3,
        "text_encoder.use_rslora": True,
    }
    metadata = {"format": "pt", "lora_adapter_metadata": json.dumps(config, indent=2, sort_keys=True)}
    w.add(file, "sd", rows, diffusers, "diffusers", metadata=metadata)

    for name, model, component, paths, architecture, spell, dialect in (
        ("sd3", "sd3", "transformer", SD3_PATHS, "SD 3", diffusers, "diffusers"),
        ("amused", "amused", "transformer", AMUSED_PATHS, "aMUSEd", diffusers, "diffusers"),
        ("sdxl", "sdxl", "unet", XL_ATTENTION, "SDXL", diffusers, "diffusers"),
        ("simpletuner_sd3", "sd3", "transformer", SD3_PATHS, "SD 3", peft_on_components, "peft"),
        ("flash_sd3", "sd3", "transformer", SD3_PATHS, "SD 3", peft_bare, "peft"),
        ("bare_sd3", "sd3", "transformer", SD3_PATHS, "SD 3", bare, "bare"),
    ):
        file = f"diffusers/{name}.safetensors"
        rows = on(model, component, paths, none, file)
        if spell is diffusers:
            rows += on(model, "text_encoder", TEXT[:1], none, file)
            rows += on(model, "text_encoder_2", TEXT[:1], none, file) if model == "sdxl" else []
        w.add(file, model, rows, spell, dialect, architecture)

    # PEFT's lora_bias is multiplied by the scale as the product is.
    for file, text, spell, dialect in (
        ("diffusers/bias.safetensors", [], diffusers, "diffusers"),
        ("diffusers/bias_compatible.safetensors", TEXT[:2], compatible, "diffusers-2023"),
    ):
        rows = on("sd", "unet", [SD_QKVO[3], SD_CONVOLUTIONS[0]], none, file) + on("sd", "text_encoder", text, none, file)
        for row in rows:
            row.layer.tensors["lora_B.bias"] = random(
                row.name + ".bias", module("sd", row.component, row.name).weight.shape[:1], 0.2
            )
        w.add(file, "sd", rows, spell, dialect)

    write_models(w)

    # An embedding's factors stand the other way round.
    file = "diffusers/embedding.safetensors"
    paths = ["text_model.embeddings.token_embedding"]
    rows = on("sd", "unet", SD_QKVO[:1], none, file) + on("sd", "text_encoder", paths, embedding, file)
    w.add(file, "sd", rows, diffusers, "diffusers")


def write_models(w):
    """Files of one model, as diffusers' save_lora_adapter() writes them: neither keys nor metadata have the component."""
    import peft as P

    sd = [f"down_blocks.2.attentions.0.{BLOCK}.attn1.to_q", f"down_blocks.2.attentions.0.{BLOCK}.attn1.to_out.0"]
    convolution = ["down_blocks.2.resnets.0.conv1"]
    sd3 = [f"{BLOCK}.attn.to_q", f"{BLOCK}.attn.to_k"]
    lora = dict(r=4, lora_alpha=2)
    for name, model, component, paths, config, architecture in (
        (
            "lora",
            "sd",
            "unet",
            sd + convolution,
            P.LoraConfig(**lora, rank_pattern={"conv1": 2}, alpha_pattern={"to_q": 3}, target_modules=sd + convolution),
            "",
        ),
        ("lokr", "sd3", "transformer", sd3, P.LoKrConfig(r=2, alpha=3, decompose_factor=2, target_modules=sd3), "SD 3"),
        ("lokr_whole", "sd3", "transformer", sd3, P.LoKrConfig(r=64, alpha=16, target_modules=sd3), "SD 3"),
        ("loha", "sd3", "transformer", sd3, P.LoHaConfig(r=2, alpha=3, target_modules=sd3), "SD 3"),
        ("lora_only", "sd", "unet", sd + convolution, P.LoraConfig(**lora, bias="lora_only", target_modules=sd + convolution), ""),
        ("bias_all", "sd", "unet", sd, P.LoraConfig(**lora, bias="all", target_modules=sd), ""),
    ):
        file = f"diffusers/model_{name}.safetensors"
        layers, state, fields = peft(config, file, make_model(model, component), paths)
        tensors = {k.removeprefix("base_model.model."): v for k, v in state.items()}
        if name == "bias_all":  # of the many biases, those of a convolution and of a norm
            others = ["conv_in", "down_blocks.0.resnets.0.norm1"]
            tensors = {k: v for k, v in tensors.items() if "lora" in k or "base_layer" in k or k[:-5] in others}
            for path in others:
                layers[path] = Layer({"base_layer.bias": tensors[f"{path}.bias"]}, "diff")
        metadata = {"format": "pt", "lora_adapter_metadata": json.dumps(fields, indent=2, sort_keys=True)}
        rows = [Row(component, p, l) for p, l in layers.items()]
        w.add(file, model, rows, None, "bare", architecture, metadata=metadata, tensors=tensors)


def embedding(name, at, i):
    count, width = at.weight.shape
    t = {
        "lora_embedding_A": random(name + ".A", (2, count), 0.4),
        "lora_embedding_B": random(name + ".B", (width, 2), 0.4),
    }
    return Layer(t, "lora")


def write_peft(w):
    import peft as P

    linear = [f"down_blocks.2.attentions.0.{BLOCK}.attn1.to_q", f"up_blocks.3.attentions.1.{BLOCK}.ff.net.2"]
    conv = ["down_blocks.2.resnets.0.conv1"]
    both = linear + conv
    configs = {
        "lora": (P.LoraConfig(r=2, lora_alpha=8, alpha_pattern={"to_q": 3}, target_modules=both), both),
        "rslora": (P.LoraConfig(r=2, lora_alpha=3, use_rslora=True, target_modules=both), both),
        "dora": (P.LoraConfig(r=2, lora_alpha=8, use_dora=True, target_modules=both), both),
        "loha": (P.LoHaConfig(r=2, alpha=8, target_modules=both), both),
        "loha_effective": (P.LoHaConfig(r=2, alpha=3, use_effective_conv2d=True, target_modules=both), both),
        "lokr": (P.LoKrConfig(r=2, alpha=8, target_modules=both), both),
        "lokr_whole": (P.LoKrConfig(r=8, alpha=4, decompose_factor=4, target_modules=both), both),
        "lokr_both": (
            P.LoKrConfig(r=1, alpha=2, decompose_both=True, use_effective_conv2d=True, target_modules=both),
            both,
        ),
        "oft": (P.OFTConfig(r=0, oft_block_size=4, target_modules=both), both),
        "oft_exact": (P.OFTConfig(r=0, oft_block_size=4, use_cayley_neumann=False, target_modules=linear), linear),
        "oft_shared": (P.OFTConfig(r=0, oft_block_size=4, block_share=True, target_modules=linear), linear),
        "ia3": (P.IA3Config(target_modules=both, feedforward_modules=linear[1:]), both),
    }
    for name, (config, paths) in configs.items():
        layers, state, fields = peft(config, f"peft/{name}", make_model("sd", "unet"), paths)
        folder = f"peft/{name}"
        save_peft(folder, state, fields)
        # The config alone says how its rotations are made.
        more = dict(beyond_tensors=True) if name == "oft_exact" else {}
        w.expect(folder, "sd", [Row("unet", p, l) for p, l in layers.items()], "peft", **more)

    # A folder a component, each with a config of its own.
    folder, rows = "peft/components", []
    for component, paths in (("unet", SD_QKVO[:2]), ("text_encoder", ["encoder.layers.0.mlp.fc1"])):
        config = P.LoraConfig(r=2, lora_alpha=3 if component == "unet" else 8, target_modules=paths)
        layers, state, fields = peft(config, f"{folder}/{component}", make_model("sd", component), paths)
        save_peft(f"{folder}/{component}", state, fields)
        start = "" if component == "unet" else "text_model."
        rows += [Row(component, start + p, l) for p, l in layers.items()]
    w.expect(folder, "sd", rows, "peft")

    # A PEFT model's whole state dict has the adapter's name in its keys.
    for name, infix in (("default", ".default"), ("other_name", ".my_style")):
        file = f"peft/{name}.safetensors"
        rows = on("sd", "unet", SD_QKVO, plain(alpha=None), file)
        edit = lambda key, infix=infix: key.replace(".weight", infix + ".weight")
        w.add(file, "sd", rows, renamed(peft_bare, edit), "peft")


def save_peft(folder, state, fields):
    save_tensors(state, OUT / folder / "adapter_model.safetensors", {"format": "pt"}, sort=False)
    (OUT / folder / "adapter_config.json").write_text(json.dumps(fields, indent=2, default=str) + "\n")


# ---- Others ----------------------------------------------------------------------------------------------------------


def write_flux(w):
    def flux_file(name, names, spell, dialect, alpha=None, edit=None):
        file = f"flux/{name}.safetensors"
        rows = flux_rows(names, file, alpha=alpha)
        content = spell(rows)
        if edit:
            rows = edit(rows)
        w.add(file, "flux", rows, None, dialect, "Flux", tensors=content)

    top = ["img_in", "txt_in", "time_in.in_layer", "vector_in.out_layer", "final_layer.adaLN_modulation.1"]
    flux_file("kohya", FLUX_NAMES, flat({"transformer": "lora_unet_"}), "kohya", 1.0)
    flux_file("comfy", FLUX_NAMES + top, comfy_factors, "comfy")
    flux_file("kontext", FLUX_NAMES, peft_bare, "peft")
    flux_file("bfl", FLUX_NAMES + top, bare, "bfl")

    # XLabs' single blocks: the rows of q, k and v of linear1 alone.
    file = "flux/xlabs.safetensors"
    names = [
        f"double_blocks.{i}.{leaf}"
        for i, leaf in enumerate(("img_attn.qkv", "txt_attn.qkv", "img_attn.proj", "txt_attn.proj"))
    ]
    rows = flux_rows(names + ["single_blocks.1.linear2"], file)
    native, inputs = flux("double_blocks.0.img_attn.qkv")
    short = type(native)(tuple(f"single_transformer_blocks.2.attn.to_{x}" for x in "qkv"), native.rows)
    layer = lora(file + ".short", None, weight=torch.zeros(3 * FLUX_WIDTH, inputs))
    rows.append(Row("transformer", "single_blocks.2.linear1", layer, (short, inputs)))
    w.add(file, "flux", rows, xlabs, "xlabs", "Flux")

    # diffusers' names: PEFT's factors, and OneTrainer's flat ones.
    paths = [
        "transformer_blocks.0.attn.to_q",
        "single_transformer_blocks.3.proj_mlp",
        "transformer_blocks.1.norm1.linear",
    ]
    for name, spell, dialect, alpha in (
        ("diffusers", diffusers, "diffusers", None),
        ("onetrainer", onetrainer_legacy, "onetrainer", 1.0),
    ):
        file = f"flux/{name}.safetensors"
        rows = []
        for path, rows_of in zip(paths, (1, 4, 6), strict=True):
            weight = torch.zeros(rows_of * FLUX_WIDTH, FLUX_WIDTH)
            native = type(native)((path,), (weight.shape[0],))
            rows.append(
                Row("transformer", path, lora(file + path, None, 2, alpha, weight=weight), (native, FLUX_WIDTH))
            )
        w.add(file, "flux", rows, spell, dialect, "Flux")


@torch.no_grad()
def main():
    check_versions()
    quiet()
    shutil.rmtree(OUT, ignore_errors=True)
    check_names()
    w = Writer()
    for write in (
        write_kohya,
        write_kohya_xl,
        write_kohya_sd3,
        write_lycoris,
        write_onetrainer,
        write_diffusers,
        write_peft,
        write_flux,
        write_odd,
        write_cloneofsimo,
        write_malformed,
    ):
        write(w)
    configs = {
        m: {c: dict(cls=cls, config=config) for c, (cls, config) in components.items()} for m, components in models().items()
    }
    save_json(dict(models=configs, files=w.files, malformed=w.malformed), OUT / "cases.json")
    save_tensors(w.expected, OUT / "expected.safetensors")
    print(f"{len(w.files)} files, {len(w.malformed)} malformed; {sizes(OUT)}")


if __name__ == "__main__":
    main()
