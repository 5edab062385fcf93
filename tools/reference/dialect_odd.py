"""LoRA files whose keys or numbers are odd and that load all the same; files without names; and files that must not load,
or not all of whose layers can."""

import json
import struct

import torch
from dialect_algorithms import Layer, lora
from dialect_files import (
    BLOCK,
    FLUX_NAMES,
    MMDIT,
    OUT,
    SD3_PATHS,
    SD_QKVO,
    T5,
    TEXT,
    XL_ATTENTION,
    flux_rows,
    native_rows,
    of,
    on,
    plain,
    to_sgm,
)
from dialect_models import make_model, random
from dialect_spellings import (
    FACTORS,
    Row,
    diffusers,
    flat,
    kohya,
    kohya_sd3,
    kohya_xl,
    prefixed,
    renamed,
)

# ---- Odd ones --------------------------------------------------------------------------------------------------------


def write_odd(w):
    """What is wrong with the keys of files that load all the same."""
    none = plain(alpha=None)

    def odd(name, spell, dialect, paths=SD_QKVO, make=none, text=(), **more):
        file = f"odd/{name}.safetensors"
        rows = on("sd", "unet", paths, make, file) + on("sd", "text_encoder", text, make, file)
        w.add(file, "sd", rows, spell, dialect, **more)

    odd("unet_unet", renamed(diffusers, lambda k: "unet." + k), "diffusers")
    odd("orig_mod", renamed(diffusers, lambda k: k.replace("unet.", "unet._orig_mod.")), "diffusers")
    odd("module", renamed(diffusers, lambda k: k.replace("unet.", "unet.module.")), "diffusers")
    odd("fsdp", renamed(diffusers, lambda k: k.replace(".attn1", "._fsdp_wrapped_module.attn1")), "diffusers")
    odd("spaces", renamed(kohya, lambda k: f" {k} "), "kohya", make=plain(), text=TEXT[:1])
    odd("double_underscore", flat({"unet": "lora_unet__"}), "kohya", make=plain())
    odd("to_out", renamed(diffusers, lambda k: k.replace("to_out.0", "to_out")), "diffusers")
    odd("to_out_flat", renamed(kohya, lambda k: k.replace("to_out_0", "to_out")), "kohya", make=plain())
    odd("te1_on_sd", flat({"unet": "lora_unet_", "text_encoder": "lora_te1_"}), "kohya", make=plain(), text=TEXT)
    odd("no_text_model", renamed(diffusers, lambda k: k.replace("text_model.", "")), "diffusers", text=TEXT)
    odd(
        "magnitude",
        prefixed({"unet": "unet."}, {**FACTORS, "lora_magnitude_vector": "magnitude"}),
        "diffusers",
        make=with_magnitude,
    )

    file = "odd/inpainting.safetensors"
    base = on("sd", "unet", ["conv_in"], none, file)
    t = base[0].layer.tensors
    wide = Layer(dict(t), "lora")
    wide.tensors["lora_down.weight"] = torch.nn.functional.pad(t["lora_down.weight"], (0, 0, 0, 0, 0, 5))
    w.add(file, "sd-inpaint", [Row("unet", "conv_in", wide)], None, "diffusers", tensors=diffusers(base))

    # Factors that are zero do nothing, and are no error.
    file = "odd/zero_up.safetensors"
    rows = on("sd", "unet", SD_QKVO[:2], plain(), file)
    rows[0].layer.tensors["lora_up.weight"] *= 0
    w.add(file, "sd", rows, kohya, "kohya")

    # Text encoders that the pipeline has not.
    file = "odd/no_t5.safetensors"
    rows = on("sd3-no-t5", "transformer", SD3_PATHS[:2], none, file)
    extra = on("sd3", "text_encoder_3", T5, none, file)
    w.add(file, "sd3-no-t5", rows, diffusers, "diffusers", "SD 3", tensors=diffusers(extra), unmatched=4)

    # One layer in two spellings counts once.
    file = "odd/two_copies.safetensors"
    rows = on("sdxl", "unet", XL_ATTENTION[:2], plain(), file)
    again = kohya_xl(to_sgm(rows, "sdxl"))
    w.add(file, "sdxl", rows, kohya_xl, "kohya", tensors=again, unmatched=6)

    # Layers that the model has not, beside those that it has.
    file = "odd/some_unknown.safetensors"
    rows = on("sd", "unet", SD_QKVO[:2], none, file)
    extra = {f"unet.down_blocks.7.resnets.0.conv1.lora_{x}.weight": torch.ones(2, 2) for x in "AB"}
    w.add(file, "sd", rows, diffusers, "diffusers", tensors=extra, unmatched=1)

    # A textual inversion embedding in the same file.
    file = "odd/bundle_emb.safetensors"
    rows = on("sd", "unet", SD_QKVO[:2], plain(), file)
    extra = {"bundle_emb.my.style.string_to_param.*": random(file, (2, 16))}
    w.add(file, "sd", rows, kohya, "kohya", tensors=extra)


def with_magnitude(name, at, i):
    layer = lora(name, at)
    layer.tensors["lora_magnitude_vector"] = at.weight.detach().norm(dim=1) * (
        1 + 0.2 * random(name, at.weight.shape[:1])
    )
    layer.algorithm = "dora"
    return layer


# ---- cloneofsimo -----------------------------------------------------------------------------------------------------


def write_cloneofsimo(w):
    """Lists of factors without names, in the order in which the model was walked: the linear layers of each attention and
    GEGLU of a UNet, of each attention of a text encoder. diffusers of that time had the GEGLU between the attentions.
    """
    twin, everything = {}, []
    for component, classes in (("unet", ("Attention", "GEGLU")), ("text_encoder", ("CLIPAttention",))):
        names = walked(make_model("sd", component), classes)
        if component == "text_encoder":
            names = ["text_model." + n for n in names]
        file = f"cloneofsimo/lora_weight{'' if component == 'unet' else '.text_encoder'}.pt"
        rows = on("sd", component, names, plain(1, None, torch.float16), file)
        tensors = [r.layer.tensors[f"lora_{half}.weight"] for r in rows for half in ("up", "down")]
        (OUT / file).parent.mkdir(parents=True, exist_ok=True)
        torch.save(tensors, OUT / file)
        shown = [r for r in rows if "attn2" not in r.name][::17] if component == "unet" else rows
        w.expect(file, "sd", shown, "cloneofsimo", SD1_OF[component], matched=len(rows))
        for i, tensor in enumerate(tensors):
            twin[f"{component}:{i // 2}:{('up', 'down')[i % 2]}"] = tensor
        everything += rows
    file = "cloneofsimo/twin.safetensors"
    metadata = {c: "[]" for c in ("unet", "text_encoder")} | {k.rsplit(":", 1)[0] + ":rank": "1" for k in twin}
    shown = [r for r in everything if "attn2" not in r.name][::17]
    w.add(file, "sd", shown, None, "cloneofsimo", "SD 1.x", metadata, twin, matched=len(everything))


SD1_OF = {"unet": "SD 1.x", "text_encoder": ""}


def walked(model, classes):
    found = []
    for name, at in model.named_modules():
        if type(at).__name__ in classes:
            found.append([f"{name}.{n}" for n, m in at.named_modules() if isinstance(m, torch.nn.Linear)])
    if "GEGLU" in classes:
        found = [found[i + j] for i in range(0, len(found), 3) for j in (0, 2, 1)]
    return [name for names in found for name in names]


# ---- Files that must not load, or not all of them --------------------------------------------------------------------


def write_malformed(w):
    one = lambda file, n=2: on("sd", "unet", SD_QKVO[:n], plain(), file)

    def bad(name, edit, error=None, says="", model="sd", spell=kohya, make=one, **more):
        file = f"malformed/{name}.safetensors"
        content = spell(make(file))
        edit(content)
        w.bad(file, model, content, error, says, **more)

    first = lambda t, end: next(k for k in t if k.endswith(end))
    bad("half_a_pair", lambda t: t.pop(first(t, "lora_up.weight")), "bad_key", "to_q")
    bad("two_alphas", lambda t: t.__setitem__(first(t, "alpha"), torch.ones(2)), "bad_shape", "alpha")

    def transpose(t):
        for k in list(t):
            if k.endswith((".lora_up.weight", ".lora_down.weight")):
                t[k] = t[k].t().contiguous()

    bad("transposed", transpose, "bad_shape", "transposed")

    def swap(t):
        for k in list(t):
            if k.endswith(".lora_down.weight"):
                up = k.replace("lora_down", "lora_up")
                t[k], t[up] = t[up], t[k]

    bad("swapped", swap, "bad_shape", "")
    bad("another_width", lambda t: t.__setitem__(first(t, "lora_down.weight"), torch.ones(2, 12)), "bad_shape", "12")
    bad("another_rank", lambda t: t.__setitem__(first(t, "lora_down.weight"), torch.ones(3, 16)), "bad_shape", "rank")
    for value, name in ((float("nan"), "nan"), (float("inf"), "infinity")):
        bad(name, lambda t: t[first(t, "lora_down.weight")].view(-1).__setitem__(0, value), layers=1, says="NaN or infinity")

    def empty(t):
        t[first(t, "lora_down.weight")], t[first(t, "lora_up.weight")] = torch.ones(0, 16), torch.ones(16, 0)

    bad("rank_zero", empty, layers=1, says="rank")

    # Other models' files.
    file = "malformed/sdxl_on_sd.safetensors"
    rows = on("sdxl", "unet", [f"down_blocks.1.attentions.0.{BLOCK}.attn2.to_k"], plain(1), file)
    w.bad(file, "sd", kohya_xl(to_sgm(rows, "sdxl")), "bad_shape", "SDXL")
    file = "malformed/sd_on_sdxl.safetensors"
    rows = on("sd", "unet", [f"down_blocks.1.attentions.0.{BLOCK}.attn2.to_k"], plain(1), file)
    w.bad(file, "sdxl", kohya(rows), "bad_shape", "SD 1.x")
    file = "malformed/sd3_on_sd.safetensors"
    w.bad(file, "sd", kohya_sd3(native_rows(MMDIT[:2], plain(), file)), None, "SD 3", any_error=True)
    file = "malformed/sd_on_sd3.safetensors"
    w.bad(file, "sd3", kohya(on("sd", "unet", SD_QKVO[:2], plain(), file)), None, "", any_error=True)
    file = "malformed/flux_on_sd3.safetensors"
    w.bad(
        file, "sd3", flat({"transformer": "lora_unet_"})(flux_rows(FLUX_NAMES[:2], file)), None, "Flux", any_error=True
    )

    # What is no LoRA.
    ones = lambda *shape: torch.ones(shape)
    for name, keys, says in (
        (
            "checkpoint",
            {
                "model.diffusion_model.input_blocks.0.0.weight": ones(4, 4, 3, 3),
                "first_stage_model.encoder.conv_in.weight": ones(4, 3, 3, 3),
            },
            "checkpoint",
        ),
        (
            "lllite",
            {"lllite_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q.down.0.weight": ones(2, 4)},
            "LLLite",
        ),
        ("textual_inversion", {"emb_params": ones(1, 768)}, "textual inversion"),
        ("textual_inversion_xl", {"clip_l": ones(1, 768), "clip_g": ones(1, 1280)}, "textual inversion"),
        ("ip_adapter", {"image_proj.proj.weight": ones(4, 4), "ip_adapter.1.to_k_ip.weight": ones(4, 4)}, "IP-Adapter"),
        (
            "language_model",
            {
                "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight": ones(2, 8),
                "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight": ones(8, 2),
            },
            "",
        ),
        (
            "tlora",
            {
                f"lora_unet_mid_block_attentions_0_proj_in.{k}": ones(2, 2)
                for k in ("q_layer.weight", "p_layer.weight", "lambda_layer")
            },
            "",
        ),
        ("nothing", {"a": ones(1)}, ""),
    ):
        w.bad(f"malformed/{name}.safetensors", "sd", keys, None, says, any_error=True)
    control = {
        "lora_controlnet": ones(1),
        "input_blocks.1.1.transformer_blocks.0.attn1.to_q.up": ones(8, 2),
        "input_blocks.1.1.transformer_blocks.0.attn1.to_q.down": ones(2, 8),
        "input_hint_block.0.bias": ones(4),
    }
    w.bad("malformed/control_lora.safetensors", "sd", control, None, "Control-LoRA", any_error=True)

    # A magnitude of inputs on q, k and v together is of all their rows: no part of it is DoRA.
    file = "malformed/dora_input_qkv.safetensors"
    make = of("lora", lora_dim=2, alpha=1, weight_decompose=True, wd_on_out=False)
    w.bad(file, "sd3", kohya_sd3(native_rows(MMDIT[:1], make, file)), "unsupported", "qkv")
    file = "malformed/boft_qkv.safetensors"
    w.bad(file, "sd3", kohya_sd3(native_rows(MMDIT[:1], of("boft", lora_dim=6), file)), "unsupported", "qkv")

    # Broken containers.
    good = (OUT / "kohya/no_alpha.safetensors").read_bytes()
    size = struct.unpack("<Q", good[:8])[0]
    header = good[8 : 8 + size]
    (OUT / "malformed").mkdir(exist_ok=True)
    for name, data in (
        ("truncated", good[:-100]),
        ("no_header", good[:6]),
        ("long_header", struct.pack("<Q", 2**40) + good[8:]),
        ("duplicate_key", duplicate(header) + good[8 + size :]),
        ("hole", holed(header) + good[8 + size :] + b"\0" * 64),
    ):
        (OUT / f"malformed/{name}.safetensors").write_bytes(data)
        w.bad(f"malformed/{name}.safetensors", "sd", None, "bad_file")


def framed(text):
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def duplicate(header):
    text = header.rstrip().decode()
    start = text.index('"lora')
    entry = text[start : text.index("}", start) + 1]
    return framed((text[:-1] + "," + entry + "}").encode())


def holed(header):
    fields = json.loads(header)
    last = max((v for k, v in fields.items() if k != "__metadata__"), key=lambda v: v["data_offsets"][0])
    last["data_offsets"] = [x + 64 for x in last["data_offsets"]]
    return framed(json.dumps(fields, separators=(",", ":")).encode())
