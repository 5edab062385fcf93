#!/usr/bin/env python3
"""Writes tests/data/pipelines/tiny.json and tiny.safetensors: what diffusers' pipelines draw with the smallest models
of each kind.

    python tools/reference/make_tiny_pipelines.py

tiny.json has "pipelines", by name: the model_index.json, the config of each component and of the scheduler; and
"cases": a pipeline's name, a mode ("text", "image", "inpaint") and the arguments of the call under the reference's own
names. Weights, pictures and adapters are made from names alone (tiny.py), here and in the tests. tiny.safetensors has
for each case the latents after the last step and the picture of the first.
Pictures are uint8 [N, H, W, 3]. `image: [h, w]` is the picture named after the case, of that size; `mask: [h, w]` is
white in the middle half of its columns, or inside `white: [top, left, bottom, right]`. `invert_mask`, `blur_factor` and
`apply_overlay` stand for calls of Pillow and of VaeImageProcessor around the pipeline's call. `latents: CASE` are those
that another case left. Adapters hold factors for every linear layer and convolution whose path ends in one of
`targets`.
"""
import numpy as np
import PIL.Image
import PIL.ImageOps
import torch
from common import DATA, ROOT, as_numpy, check_versions, quiet, save_json, save_tensors, sizes
from diffusers.image_processor import VaeImageProcessor
from tiny import noise, weight

OUT = DATA / "pipelines"
TOKENIZER = ROOT / "models" / "tiny" / "tokenizer"
T5_TOKENIZER = DATA / "tokenizers" / "t5"

# ---- The models -----------------------------------------------------------------------------------------------------


def clip(width, projection=None, layers=3, act="quick_gelu"):
    name = "CLIPTextModelWithProjection" if projection else "CLIPTextModel"
    return dict(
        architectures=[name],
        hidden_size=width,
        intermediate_size=2 * width,
        num_attention_heads=2,
        num_hidden_layers=layers,
        max_position_embeddings=32,
        vocab_size=5519,
        projection_dim=projection or width,
        hidden_act=act,
        bos_token_id=5517,
        eos_token_id=5518,
        pad_token_id=5518,
        model_type="clip_text_model",
    )


def vae(latent_channels=4, **fields):
    return dict(
        block_out_channels=[8, 16],
        down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2,
        latent_channels=latent_channels,
        layers_per_block=1,
        norm_num_groups=4,
        sample_size=32,
        **fields,
    )


def unet(cross, in_channels=4, depth=(1, 1), **fields):
    return dict(
        block_out_channels=[16, 32],
        down_block_types=["DownBlock2D", "CrossAttnDownBlock2D"],
        up_block_types=["CrossAttnUpBlock2D", "UpBlock2D"],
        attention_head_dim=[2, 4],
        transformer_layers_per_block=list(depth),
        cross_attention_dim=cross,
        in_channels=in_channels,
        layers_per_block=1,
        norm_num_groups=8,
        sample_size=16,
        **fields,
    )


def text_time(pooled, ids):
    return dict(
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=pooled + 8 * ids,
        use_linear_projection=True,
    )


def sd3(**fields):
    return dict(
        sample_size=16,
        patch_size=2,
        in_channels=16,
        out_channels=16,
        num_layers=fields.pop("num_layers", 2),
        attention_head_dim=8,
        num_attention_heads=4,
        joint_attention_dim=48,
        caption_projection_dim=32,
        pooled_projection_dim=40,
        pos_embed_max_size=24,
        **fields,
    )


def uvit(**fields):
    return dict(
        hidden_size=32,
        cond_embed_dim=24,
        encoder_hidden_size=16,
        micro_cond_encode_dim=8,
        micro_cond_embed_dim=40,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        vocab_size=40,
        codebook_size=32,
        block_out_channels=32,
        block_num_heads=2,
        in_channels=32,
        num_res_blocks=1,
        sample_size=8,
        **fields,
    )


SCALED = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
EULER = dict(_class_name="EulerDiscreteScheduler", **SCALED, steps_offset=1, timestep_spacing="leading")
VQ = dict(
    block_out_channels=[8, 16],
    down_block_types=["DownEncoderBlock2D"] * 2,
    up_block_types=["UpDecoderBlock2D"] * 2,
    latent_channels=8,
    layers_per_block=1,
    norm_num_groups=4,
    num_vq_embeddings=32,
    sample_size=16,
    mid_block_add_attention=False,
    lookup_from_codebook=True,
)


def pipelines():
    """name -> class, components by class and config, scheduler, settings of the index"""
    xl = dict(
        unet=("UNet2DConditionModel", unet(40, depth=(1, 2), **text_time(24, 6))),
        text_encoder=("CLIPTextModel", clip(16)),
        text_encoder_2=("CLIPTextModelWithProjection", clip(24, 24, act="gelu")),
        vae=("AutoencoderKL", vae(scaling_factor=0.13025, force_upcast=True)),
    )
    three = dict(
        text_encoder=("CLIPTextModelWithProjection", clip(16, 16)),
        text_encoder_2=("CLIPTextModelWithProjection", clip(24, 24, act="gelu")),
        vae=(
            "AutoencoderKL",
            vae(16, shift_factor=0.0609, scaling_factor=1.5305, use_quant_conv=False, use_post_quant_conv=False),
        ),
    )
    t5 = dict(
        architectures=["T5EncoderModel"],
        d_model=48,
        d_kv=8,
        d_ff=64,
        num_heads=4,
        num_layers=2,
        vocab_size=t5_vocabulary(),
        feed_forward_proj="gated-gelu",
        relative_attention_num_buckets=8,
        relative_attention_max_distance=16,
        model_type="t5",
    )
    amused = dict(
        text_encoder=("CLIPTextModelWithProjection", clip(16, 24)),
        vqvae=("VQModel", VQ),
    )
    flow = dict(_class_name="FlowMatchEulerDiscreteScheduler", shift=3.0)
    tokens = dict(_class_name="AmusedScheduler", mask_token_id=39, masking_schedule="cosine")
    pndm = dict(_class_name="PNDMScheduler", **SCALED, skip_prk_steps=True, steps_offset=1)
    return {
        "sd": dict(
            cls="StableDiffusion",
            parts=dict(
                unet=("UNet2DConditionModel", unet(16)), text_encoder=("CLIPTextModel", clip(16)), vae=("AutoencoderKL", vae())
            ),
            scheduler=pndm,
        ),
        "sd-inpaint": dict(
            cls="StableDiffusion",
            parts=dict(
                unet=("UNet2DConditionModel", unet(16, 9)), text_encoder=("CLIPTextModel", clip(16)), vae=("AutoencoderKL", vae())
            ),
            scheduler=pndm,
        ),
        "sdxl": dict(cls="StableDiffusionXL", parts=xl, scheduler=EULER, index=dict(force_zeros_for_empty_prompt=True)),
        "sdxl-refiner": dict(
            cls="StableDiffusionXL",
            parts=dict(
                unet=("UNet2DConditionModel", unet(24, **text_time(24, 5))),
                text_encoder_2=xl["text_encoder_2"],
                vae=xl["vae"],
            ),
            scheduler=EULER,
            index=dict(force_zeros_for_empty_prompt=False, requires_aesthetics_score=True),
        ),
        "sd3": dict(
            cls="StableDiffusion3", parts=dict(transformer=("SD3Transformer2DModel", sd3()), **three), scheduler=flow
        ),
        "sd35": dict(
            cls="StableDiffusion3",
            parts=dict(
                transformer=(
                    "SD3Transformer2DModel",
                    sd3(num_layers=3, qk_norm="rms_norm", dual_attention_layers=[0, 1]),
                ),
                text_encoder_3=("T5EncoderModel", t5),
                **three,
            ),
            scheduler=dict(_class_name="FlowMatchEulerDiscreteScheduler", shift=1.0, use_dynamic_shifting=True),
        ),
        "amused-256": dict(cls="Amused", parts=dict(transformer=("UVit2DModel", uvit()), **amused), scheduler=tokens),
        "amused-512": dict(
            cls="Amused",
            parts=dict(transformer=("UVit2DModel", uvit(downsample=True, upsample=True)), **amused),
            scheduler=tokens,
        ),
    }


def t5_vocabulary():
    from transformers import T5Tokenizer

    return len(T5Tokenizer.from_pretrained(T5_TOKENIZER))


# ---- The cases ------------------------------------------------------------------------------------------------------

TARGETS = ["to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "conv1", "add_q_proj", "add_k_proj", "q_proj",
           "v_proj", "fc1", "query", "key", "value", "wi_0", "wo", "SelfAttention.q", "SelfAttention.v"]  # fmt: skip


def adapter(name, weight=1.0, targets=TARGETS, rank=2):
    return dict(name=name, weight=weight, targets=targets, rank=rank)


TWO = [adapter("one", 0.7), adapter("two", -0.4, ["to_q", "to_v", "q_proj", "v_proj"], 3)]


def scheduler(name, **config):
    return {"class": name, "config": config}


def cases():
    """name -> pipeline, mode and arguments"""
    short = dict(num_inference_steps=4, seed=3)
    rows = {}

    def add(pipeline, name, mode="text", **arguments):
        rows[f"{pipeline}: {name}"] = dict(pipeline=pipeline, mode=mode, **{**short, **arguments})

    for pipe in ("sd", "sdxl", "sd3"):
        add(pipe, "image", "image", image=[32, 32], strength=0.6)
        add(pipe, "image of another size, two pictures", "image", image=[40, 52], size=[32, 48], strength=0.75,
            num_images_per_prompt=2, seed=5 if pipe == "sd3" else [5, 6])  # diffusers' SD 3 fails with a list  # fmt: skip
        add(pipe, "image, full strength", "image", image=[32, 32], strength=1.0, num_inference_steps=3)
        add(pipe, "inpaint", "inpaint", image=[32, 32], mask=[32, 32], strength=0.8)
        add(pipe, "inpaint, full strength", "inpaint", image=[32, 32], mask=[20, 28], strength=1.0, seed=[9])
    add("sd", "image, LCM", "image", image=[32, 32], strength=0.5, guidance_scale=1.4, scheduler=scheduler("LCMScheduler"))
    add("sd", "inpaint, noise in every step", "inpaint", image=[32, 32], mask=[32, 32], strength=1.0,
        scheduler=scheduler("EulerAncestralDiscreteScheduler"))  # fmt: skip
    # The crop of a wide picture; one that does not have the shape of what is drawn; one with pixels around it.
    cropped = dict(mode="inpaint", size=[32, 32], strength=0.7, padding_mask_crop=0)
    for pipe in ("sd", "sd-inpaint", "sdxl", "sd3"):
        add(pipe, "inpaint, crop", **cropped, image=[40, 72], mask=[40, 72], white=[8, 44, 30, 62])
    add("sd", "inpaint, crop of a tall picture", **cropped, image=[60, 24], mask=[60, 24])
    add("sd", "inpaint, crop of a flat picture", **cropped, image=[20, 48], mask=[20, 48])
    add("sd", "inpaint, padded crop, blurred", **{**cropped, "padding_mask_crop": 5, "blur_factor": 2, "size": [32, 48]},
        image=[64, 48], mask=[64, 48], white=[30, 6, 44, 20])  # fmt: skip
    add("sdxl", "inpaint, crop, two pictures", **cropped, image=[48, 48], mask=[48, 48],
        white=[3, 20, 24, 41], num_images_per_prompt=2)  # fmt: skip
    over = dict(mode="inpaint", image=[32, 32], mask=[32, 32], strength=0.8, apply_overlay=True)
    for pipe in ("sd", "sd-inpaint", "sdxl", "sd3"):
        add(pipe, "inpaint, overlay", **over)
        add(pipe, "inpaint, overlay, blurred", **over, blur_factor=3)
    add("sd", "inpaint, overlay, inverted", **over, invert_mask=True, blur_factor=4)
    add("sd", "inpaint, overlay of another size", **{**over, "image": [44, 52]}, size=[32, 48], blur_factor=2)
    add("sd-inpaint", "inpaint", "inpaint", image=[32, 32], mask=[32, 32], strength=1.0)
    add("sd-inpaint", "inpaint, less strength", "inpaint", image=[32, 32], mask=[32, 32], strength=0.7)
    add("sd-inpaint", "inpaint, adapter", "inpaint", image=[32, 32], mask=[32, 32], strength=1.0, adapters=[adapter("one")])

    for pipe in ("sdxl", "sd3", "sd35"):
        add(pipe, "plain")
        add(pipe, "no guidance", guidance_scale=1.0)
        add(pipe, "negative prompt", negative_prompt="blue, cat face")
        add(pipe, "second prompt", prompt_2="on a yellow background", negative_prompt="blue", negative_prompt_2="green")
        add(pipe, "two prompts, two pictures", prompt=["cactus", "owl"], num_images_per_prompt=2, num_inference_steps=2)
        add(pipe, "clip skip", clip_skip=1)
        add(pipe, "wide", size=[32, 48])
        add(pipe, "adapters", adapters=TWO)
        add(pipe, "adapters, fused", adapters=TWO, fused=True)
        add(pipe, "call scale", adapters=TWO[:1], scale=0.5)
    for pipe in ("sdxl",):
        add(pipe, "empty negative prompt", negative_prompt="")
        add(pipe, "guidance rescale", guidance_rescale=0.7)
        add(pipe, "sizes", original_size=[64, 48], crops_coords_top_left=[4, 8], target_size=[40, 32])
        add(pipe, "negative sizes", negative_original_size=[16, 24], negative_target_size=[24, 16],
            negative_crops_coords_top_left=[1, 2])  # fmt: skip
        add(pipe, "to 0.6", denoising_end=0.6, num_inference_steps=8)
        add(pipe, "from 0.6", "image", latents="sdxl: to 0.6", denoising_start=0.6, num_inference_steps=8)
        add(pipe, "image to 0.6", "image", image=[32, 32], strength=0.8, denoising_end=0.6, num_inference_steps=8)
        add(pipe, "to 0.6, DPM++", denoising_end=0.6, num_inference_steps=8, scheduler=scheduler("DPMSolverMultistepScheduler"))
        add(pipe, "LCM", scheduler=scheduler("LCMScheduler"), guidance_scale=1.5, adapters=TWO[:1])
        add(pipe, "DPM++", scheduler=scheduler("DPMSolverMultistepScheduler", use_karras_sigmas=True))
    solvers = {
        "Heun": scheduler("HeunDiscreteScheduler"),
        "UniPC": scheduler("UniPCMultistepScheduler", use_karras_sigmas=True),
        "DEIS": scheduler("DEISMultistepScheduler"),
        "DPM++ single": scheduler("DPMSolverSinglestepScheduler"),
        "DPM++ 2M SDE": scheduler("DPMSolverMultistepScheduler", algorithm_type="sde-dpmsolver++"),
        "Euler, beta sigmas": scheduler("EulerDiscreteScheduler", use_beta_sigmas=True),
        "TCD": scheduler("TCDScheduler"),
    }
    for name, solver in solvers.items():
        solved = dict(scheduler=solver, num_inference_steps=6)
        add("sdxl", name, **solved, **(dict(eta=0.3) if name == "TCD" else {}))
        add("sd", f"image, {name}", "image", image=[32, 32], strength=0.6, **solved)
        add("sd", f"inpaint, {name}", "inpaint", image=[32, 32], mask=[32, 32], strength=0.8, **solved)
    add("sd", "image, DPM++ 2M SDE, two pictures", "image", image=[32, 32], strength=0.6, num_images_per_prompt=2,
        **{**solved, "seed": [5, 6], "scheduler": solvers["DPM++ 2M SDE"]})  # fmt: skip
    add("sdxl-refiner", "image", "image", image=[32, 32], strength=0.5)
    add("sdxl-refiner", "from 0.6", "image", latents="sdxl: to 0.6", denoising_start=0.6, num_inference_steps=8)
    add("sdxl-refiner", "from image to 0.6", "image", latents="sdxl: image to 0.6", denoising_start=0.6,
        num_inference_steps=8)  # fmt: skip
    add("sdxl-refiner", "scores", "image", image=[32, 32], aesthetic_score=3.0, negative_aesthetic_score=1.0)
    add("sdxl-refiner", "adapter", "image", image=[32, 32], strength=0.5, adapters=TWO[:1])
    for pipe in ("sd3", "sd35"):
        # diffusers ignores a third prompt without a third text encoder.
        third = dict(prompt_3="a red apple on a table", negative_prompt_3="blue") if pipe == "sd35" else {}
        add(pipe, "third prompt", max_sequence_length=24, **third)
        add(pipe, "skipped layers", skip_guidance_layers=[1], skip_layer_guidance_stop=0.8, num_inference_steps=5)
    for pipe in ("amused-256", "amused-512"):
        add(pipe, "plain", num_inference_steps=6)
        add(pipe, "negative prompt, temperature", negative_prompt="blue", temperature=[4, 1], guidance_scale=3.0)
        add(pipe, "no guidance, two pictures", guidance_scale=1.0, num_images_per_prompt=2)
        add(pipe, "told otherwise", micro_conditioning_aesthetic_score=4, micro_conditioning_crop_coord=[3, 5])
        add(pipe, "wide", size=[16, 24])
        add(pipe, "adapters", adapters=TWO)
        add(pipe, "image", "image", image=[16, 16], strength=0.5, num_inference_steps=6)
        add(pipe, "image of another size, two pictures", "image", image=[20, 36], size=[16, 24], strength=0.9,
            num_inference_steps=6, num_images_per_prompt=2)  # fmt: skip
        add(pipe, "image, adapters", "image", image=[16, 16], strength=0.7, adapters=TWO[:1], guidance_scale=1.0)
        add(pipe, "inpaint", "inpaint", image=[16, 16], mask=[16, 16], num_inference_steps=6)
        add(pipe, "inpaint, less strength", "inpaint", image=[16, 16], mask=[24, 40], white=[8, 4, 24, 30], strength=0.6,
            num_inference_steps=6, num_images_per_prompt=2)  # fmt: skip
        add(pipe, "inpaint, overlay, blurred", "inpaint", image=[16, 16], mask=[16, 16], apply_overlay=True, blur_factor=2)
    return rows


# ---- Drawing --------------------------------------------------------------------------------------------------------


def filled(model):
    """Named weights; a text model of transformers 5 lacks the level that ours has in names."""
    level = "text_model." if type(model).__name__ == "CLIPTextModel" else ""
    state = {}
    for key, value in model.state_dict().items():
        name = "encoder.embed_tokens.weight" if key == "shared.weight" else level + key
        state[key] = weight(name, tuple(value.shape)) if value.is_floating_point() else value
    model.load_state_dict(state)
    return model.eval()


def make_component(cls, config):
    import diffusers
    import transformers

    if hasattr(diffusers, cls):
        return filled(getattr(diffusers, cls).from_config(config))
    model = getattr(transformers, cls)
    return filled(model(model.config_class(**config)))


def make_pipeline(spec, mode):
    import diffusers
    from transformers import CLIPTokenizer, T5Tokenizer

    kind = {"text": "", "image": "Img2Img", "inpaint": "Inpaint"}[mode]
    parts = {name: make_component(*part) for name, part in spec["parts"].items()}
    for name in list(parts):
        if name == "text_encoder_3":
            parts["tokenizer_3"] = T5Tokenizer.from_pretrained(T5_TOKENIZER)
        elif name.startswith("text_encoder"):
            parts[name.replace("text_encoder", "tokenizer")] = CLIPTokenizer.from_pretrained(TOKENIZER)
    cls = getattr(diffusers, f"{spec['cls']}{kind}Pipeline")
    if spec["cls"] == "StableDiffusion":
        parts |= dict(safety_checker=None, feature_extractor=None, requires_safety_checker=False)
    if spec["cls"] == "StableDiffusionXL":
        parts = dict(text_encoder=None, tokenizer=None) | parts
        if mode == "text":
            parts["add_watermarker"] = False
    if spec["cls"] == "StableDiffusion3":
        parts = dict(text_encoder_3=None, tokenizer_3=None) | parts
    index = dict(spec.get("index", {}))
    if mode == "text":
        index.pop("requires_aesthetics_score", None)
    config = dict(spec["scheduler"])
    parts["scheduler"] = getattr(diffusers, config["_class_name"]).from_config(config)
    pipe = cls(**parts, **index)
    if spec["cls"] == "StableDiffusionXL" and mode != "text":
        pipe.watermark = None
    pipe.set_progress_bar_config(disable=True)
    if spec["cls"] == "StableDiffusion":
        # diffusers' clip_skip asks for the final norm under a name that transformers 5 no longer has.
        object.__setattr__(pipe.text_encoder, "text_model", pipe.text_encoder)
    return pipe


def factors(pipe, spec, a):
    """The adapter's tensors, by component."""
    found = {}
    for component in spec["parts"]:
        if component in ("vae", "vqvae"):
            continue
        model = getattr(pipe, component)
        tensors = found.setdefault(component, {})
        for path, layer in model.named_modules():
            if not isinstance(layer, (torch.nn.Linear, torch.nn.Conv2d)) or not path.endswith(tuple(a["targets"])):
                continue
            level = "text_model." if type(model).__name__ == "CLIPTextModel" else ""
            name = f"{a['name']}.{component}.{level}{path}"
            out, *rest = layer.weight.shape
            tensors[f"{path}.lora_A.weight"] = 0.7 * weight(f"{name}.lora_A.weight", (a["rank"], *rest))
            tensors[f"{path}.lora_B.weight"] = 0.7 * weight(f"{name}.lora_B.weight", (out, a["rank"], *[1] * (len(rest) - 1)))
    return found


def load(pipe, spec, adapters):
    """Through PEFT itself, component by component: diffusers' own loaders do not reach all of them."""
    from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict

    # All of them before the first is injected: PEFT's layers are no plain ones any more.
    for a, layers in [(a, factors(pipe, spec, a)) for a in adapters]:
        for component, tensors in layers.items():
            model = getattr(pipe, component)
            paths = sorted({k.rsplit(".lora_", 1)[0] for k in tensors})
            if not paths:
                continue
            config = LoraConfig(r=a["rank"], lora_alpha=a["rank"], target_modules=paths)
            inject_adapter_in_model(config, model, adapter_name=a["name"])
            set_peft_model_state_dict(model, tensors, adapter_name=a["name"])
    from peft.tuners.tuners_utils import BaseTunerLayer

    for component in spec["parts"]:
        for layer in getattr(pipe, component).modules():
            if not isinstance(layer, BaseTunerLayer):
                continue
            present = [a for a in adapters if a["name"] in layer.lora_A]
            layer.set_adapter([a["name"] for a in present])
            for a in present:
                layer.set_scale(a["name"], a["weight"])


def fuse(pipe, spec):
    from peft.tuners.tuners_utils import BaseTunerLayer

    for component in spec["parts"]:
        for layer in getattr(pipe, component).modules():
            if isinstance(layer, BaseTunerLayer):
                layer.merge()


def picture(name, size):
    return PIL.Image.fromarray(((noise(name, (*size, 3)).numpy() + 1) * 128).astype(np.uint8))


def mask(size, white, invert, blur_factor):
    h, w = size
    grey = np.zeros((h, w), dtype=np.uint8)
    top, left, bottom, right = white or (0, w // 4, h, w - w // 4)
    grey[top:bottom, left:right] = 255
    made = PIL.Image.fromarray(grey)
    made = PIL.ImageOps.invert(made) if invert else made
    return VaeImageProcessor.blur(made, blur_factor) if blur_factor else made


def draw(name, row, specs, latents):
    import diffusers

    spec = specs[row["pipeline"]]
    pipe = make_pipeline(spec, row["mode"])
    arguments = {"prompt": "red apple", **row}
    for key in ("pipeline", "mode"):
        arguments.pop(key)
    if wanted := arguments.pop("scheduler", None):
        pipe.scheduler = getattr(diffusers, wanted["class"]).from_config(pipe.scheduler.config, **wanted["config"])
    adapters = arguments.pop("adapters", [])
    scale = arguments.pop("scale", 1.0)
    load(pipe, spec, [{**a, "weight": a["weight"] * scale} for a in adapters])
    if arguments.pop("fused", False):
        fuse(pipe, spec)
    for key in ("original_size", "target_size", "crops_coords_top_left", "negative_original_size",
                "negative_target_size", "negative_crops_coords_top_left", "temperature",
                "micro_conditioning_crop_coord"):  # fmt: skip
        if key in arguments:
            arguments[key] = tuple(arguments[key])
    size = arguments.pop("size", None)
    takes_size = row["mode"] == "text" or (spec["cls"] != "Amused" and (row["mode"] == "inpaint" or "3" in spec["cls"]))
    if row["mode"] == "image" and size:
        # Image-to-image takes its size from the picture: diffusers' SD 3 resizes, the others are given it resized.
        arguments["image"] = picture(name, arguments["image"]).resize(size[::-1], PIL.Image.LANCZOS)
    elif "image" in arguments:
        arguments["image"] = picture(name, arguments["image"])
    if size and takes_size:
        arguments["height"], arguments["width"] = size
    elif "image" in arguments and takes_size:
        arguments["height"], arguments["width"] = arguments["image"].height, arguments["image"].width
    if "mask" in arguments:
        forms = (arguments.pop(key, None) for key in ("white", "invert_mask", "blur_factor"))
        arguments["mask_image"] = mask(arguments.pop("mask"), *forms)
    overlay = arguments.pop("apply_overlay", False)
    if "latents" in arguments:
        arguments["image"] = latents[arguments.pop("latents")]
    seed = arguments.pop("seed")
    one = lambda s: torch.Generator().manual_seed(s)
    arguments["generator"] = [one(s) for s in seed] if isinstance(seed, list) else one(seed)
    if "padding_mask_crop" not in arguments:
        out = pipe(output_type="latent", **arguments)
        out = out[0] if isinstance(out, tuple) else out.images
        return pipe, out, overlaid(pipe, spec, out, arguments) if overlay else None
    # diffusers makes nothing but pictures here: the latents are those after the last step.
    left = {}

    def keep(pipe, step, timestep, tensors):
        left.update(tensors)
        return tensors

    images = pipe(callback_on_step_end=keep, **arguments).images
    if spec["cls"] == "StableDiffusion3":  # diffusers decodes without the shift
        part = pipe.image_processor.get_crop_region(arguments["mask_image"], size[1], size[0], arguments["padding_mask_crop"])
        return pipe, left["latents"], overlaid(pipe, spec, left["latents"], arguments, part)
    return pipe, left["latents"], torch.from_numpy(np.stack([np.array(image) for image in images]))


def overlaid(pipe, spec, latents, arguments, part=None):
    """The pictures of latents, with the unmasked part of the original put back."""
    drawn = [PIL.Image.fromarray(image.numpy()) for image in decode(pipe, spec, latents)]
    original, mask = arguments["image"], arguments["mask_image"]
    if part is None:
        original, mask = (picture.resize(drawn[0].size, PIL.Image.LANCZOS) for picture in (original, mask))
    whole = [pipe.image_processor.apply_overlay(mask, original, image, part) for image in drawn]
    return torch.from_numpy(np.stack([np.array(image) for image in whole]))


def decode(pipe, spec, latents):
    if spec["cls"] == "Amused":
        shape = (*latents.shape, pipe.vqvae.config.latent_channels)
        pixels = pipe.vqvae.decode(latents, force_not_quantize=True, shape=shape).sample.clip(0, 1)
    else:
        config = pipe.vae.config
        pixels = pipe.vae.decode(latents / config.scaling_factor + (config.shift_factor or 0)).sample
        pixels = (pixels / 2 + 0.5).clamp(0, 1)
    return (pixels.permute(0, 2, 3, 1) * 255).round().to(torch.uint8)


@torch.no_grad()
def main():
    check_versions()
    quiet()
    specs, latents, expected = pipelines(), {}, {}
    for name, row in cases().items():
        pipe, latents[name], pictures = draw(name, row, specs, latents)
        assert latents[name].dtype == torch.int64 or torch.isfinite(latents[name]).all(), name
        expected[f"{name}.latents"] = latents[name]
        if pictures is not None:
            expected[f"{name}.images"] = pictures
        elif name.endswith((": plain", ": image", ": inpaint")):
            expected[f"{name}.images"] = decode(pipe, specs[row["pipeline"]], latents[name][:1])
        print(name, list(latents[name].shape), float(latents[name].float().abs().max()))
    table = {}
    for name, spec in specs.items():
        index = dict(_class_name=f"{spec['cls']}Pipeline", **spec.get("index", {}))
        for part, (cls, _) in spec["parts"].items():
            index[part] = ["transformers" if part.startswith("text") else "diffusers", cls]
        components = {part: config for part, (_, config) in spec["parts"].items()}
        table[name] = dict(index=index, components=components, scheduler=spec["scheduler"])
    save_json(dict(pipelines=table, cases=[dict(name=n, **row) for n, row in cases().items()]), OUT / "tiny.json")
    save_tensors(expected, OUT / "tiny.safetensors")
    print(f"{len(cases())} cases;", sizes(OUT), as_numpy(next(iter(expected.values()))).shape)


if __name__ == "__main__":
    main()
