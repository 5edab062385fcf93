"""Makes tests/data/io: tensor files and pictures as the reference libraries write them, and what they read from them.

Beside each `<name>.pt` lies `<name>.expected.safetensors`, the same tensors under the names that load_state_dict gives.
Usage: python tools/reference/make_io.py   (needs torch, safetensors, diffusers, pillow, numpy)
"""

import json
import struct
import sys
import types
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch
from diffusers.image_processor import VaeImageProcessor
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo
from safetensors.torch import save_file

OUT = Path(__file__).resolve().parents[2] / "tests" / "data" / "io"


def ramp(shape, dtype):
    """0, 1, 2, … in the given shape: exact in every dtype as long as it is short."""
    count = int(np.prod(shape))
    values = torch.arange(count) % 2 if dtype == torch.bool else torch.arange(count)
    return values.to(torch.float32).to(dtype).reshape(shape)


def make_safetensors():
    dtypes = [
        torch.bool, torch.uint8, torch.int8, torch.float8_e5m2, torch.float8_e4m3fn, torch.float8_e8m0fnu,
        torch.float8_e4m3fnuz, torch.float8_e5m2fnuz, torch.int16, torch.uint16, torch.float16, torch.bfloat16,
        torch.int32, torch.uint32, torch.float32, torch.complex64, torch.float64, torch.int64, torch.uint64,
    ]  # fmt: skip
    # Names in an order of their own, so that a file in any order but by dtype and name shows.
    tensors = {}
    for i, dtype in enumerate(dtypes):
        tensors[f"{(7 * i) % 19:02d}.{str(dtype).removeprefix('torch.')}"] = ramp((2, 3), dtype)
    save_file(tensors, OUT / "dtypes.safetensors", metadata={"format": "pt"})

    save_file(
        {
            "scalar": torch.tensor(0.5),
            "empty": torch.empty(0, 4),
            "empty_half": torch.empty(3, 0, dtype=torch.float16),
            "odd": ramp((3,), torch.uint8),
            "half": ramp((5,), torch.float16),
            "matrix": ramp((2, 2), torch.float32),
        },
        OUT / "shapes.safetensors",
    )
    save_file(
        {name: ramp((1,), torch.float32) for name in ['a"b', "a\\b", "a\tb\n", "\x01", "\x7f", "ü", "z/ñ.日本"]},
        OUT / "names.safetensors",
        metadata={"title": 'naïve "quoted" \\ text\r\n\x1f'},
    )
    save_file({}, OUT / "empty.safetensors")


def save_pt(name, value, expected, **options):
    torch.save(value, OUT / f"{name}.pt", **options)
    save_file({k: v.detach().clone().contiguous() for k, v in expected.items()}, OUT / f"{name}.expected.safetensors")


class Callback:
    """Stands for pytorch_lightning's, which Stable Diffusion 1.x's checkpoints name as a dict key."""


def make_pickles():
    plain = {
        "float": ramp((2, 3), torch.float32), "half": ramp((3,), torch.float16), "bfloat": ramp((4, 1), torch.bfloat16),
        "double": ramp((2,), torch.float64), "long": ramp((2, 2), torch.int64), "int": ramp((3,), torch.int32),
        "short": ramp((3,), torch.int16), "char": ramp((3,), torch.int8), "byte": ramp((3,), torch.uint8),
        "bool": ramp((3,), torch.bool), "complex": ramp((2,), torch.complex64), "scalar": torch.tensor(2.5),
        "empty": torch.empty(0, 3),
    }  # fmt: skip
    save_pt("plain", plain, plain)
    save_pt("plain_legacy", plain, plain, _use_new_zipfile_serialization=False)
    save_pt("protocol4", plain, plain, pickle_protocol=4)
    save_pt("protocol5_legacy", plain, plain, pickle_protocol=5, _use_new_zipfile_serialization=False)

    new = {
        "uint16": ramp((3,), torch.uint16), "uint32": ramp((3,), torch.uint32), "fp8": ramp((4,), torch.float8_e4m3fn)
    }  # fmt: skip
    save_pt("new_dtypes", new, new)

    base = ramp((4, 6), torch.float32)
    views = {"base": base, "rows": base[1:3], "transposed": base.t(), "column": base[:, 2], "expanded": base[0:1].expand(3, 6)}
    save_pt("views", views, views)
    save_pt("views_legacy", views, views, _use_new_zipfile_serialization=False)

    linear = torch.nn.Linear(3, 2)
    with torch.no_grad():
        linear.weight.copy_(ramp((2, 3), torch.float32))
        linear.bias.copy_(ramp((2,), torch.float32))
    state = linear.state_dict()
    save_pt("ordered", state, state)
    save_pt("ordered_legacy", OrderedDict(linear.named_parameters()), state, _use_new_zipfile_serialization=False)
    parameters = dict(linear.named_parameters())
    with_attribute = torch.nn.Parameter(ramp((2,), torch.float32))
    with_attribute.note = "an attribute"
    tensor_with_attribute = ramp((3,), torch.float16)
    tensor_with_attribute.note = "another"
    save_pt(
        "parameters",
        {**parameters, "attribute": with_attribute, "tensor": tensor_with_attribute},
        {**parameters, "attribute": with_attribute.data, "tensor": tensor_with_attribute},
    )

    # What training leaves behind, as Stable Diffusion 1.x's checkpoints have it.
    module = types.ModuleType("pytorch_lightning.callbacks.model_checkpoint")
    Callback.__module__, Callback.__qualname__, Callback.__name__ = module.__name__, "ModelCheckpoint", "ModelCheckpoint"
    module.ModelCheckpoint = Callback
    for parent in ("pytorch_lightning", "pytorch_lightning.callbacks"):
        sys.modules[parent] = types.ModuleType(parent)
    sys.modules[module.__name__] = module
    weights = {"model.weight": ramp((2, 2), torch.float16), "model_ema.decay": torch.tensor(0.5)}
    lightning = {
        "epoch": 3, "global_step": 470000, "pytorch-lightning_version": "1.4.2", "state_dict": weights,
        "callbacks": {Callback: {"monitor": "val/loss", "best_model_score": torch.tensor(0.1), "best_model_path": "x"}},
        "optimizer_states": [{"state": {0: {"exp_avg": ramp((2,), torch.float32)}}, "param_groups": [{"betas": (0.9, 0.99)}]}],
        "lr_schedulers": [], "raw": b"\x00\xff\x80", "names": {"a", "b"}, "nothing": None, "big": 1 << 70,
    }  # fmt: skip
    save_pt("lightning", lightning, weights)
    save_pt("lightning_legacy", lightning, weights, _use_new_zipfile_serialization=False)

    nested = {
        "unet": {"a.lora_A": ramp((1, 2), torch.float32)},
        "text_encoder": OrderedDict(b=ramp((2,), torch.float16)),
        "rank": 4,
        "alpha": 2.5,
        "dora": True,
        7: ramp((1,), torch.int64),
        "info": {"name": "pixel"},
    }
    flat = {
        "unet.a.lora_A": nested["unet"]["a.lora_A"], "text_encoder.b": nested["text_encoder"]["b"], "7": nested[7],
        "rank": torch.tensor(4), "alpha": torch.tensor(2.5, dtype=torch.float64), "dora": torch.tensor(True),
    }  # fmt: skip
    save_pt("nested", nested, flat)
    listed = [ramp((2, 1), torch.float16), ramp((1, 2), torch.float16)]
    save_pt("list", listed, {"0": listed[0], "1": listed[1]})
    torch.save({"epoch": 3, "names": ["a"]}, OUT / "no_tensors.pt")


def make_shards():
    shards = [{"b.weight": ramp((2, 2), torch.float32), "a.weight": ramp((3,), torch.float16)}, {"c.weight": ramp((1,), torch.int64)}]
    for kind, suffix, save in (("model", "safetensors", save_file), ("pytorch_model", "bin", torch.save)):
        weight_map = {}
        for i, shard in enumerate(shards):
            name = f"{kind}-{i + 1:05d}-of-00002.{suffix}"
            save(shard, OUT / name)
            weight_map |= {tensor: name for tensor in shard}
        index = {"metadata": {"total_size": 30}, "weight_map": weight_map}
        (OUT / f"{kind}.{suffix}.index.json").write_text(json.dumps(index, indent=2) + "\n")


def expect(expected, name, picture):
    """The pixels over white and, where not all are opaque, the alpha, as Pillow shows the picture."""
    picture = ImageOps.exif_transpose(picture)
    with_alpha = picture.convert("RGBA")
    white = Image.new("RGB", picture.size, "white")
    white.paste(with_alpha, mask=with_alpha.getchannel("A"))
    opaque = with_alpha.getchannel("A").getextrema() == (255, 255)
    expected[name] = torch.from_numpy(np.array(picture.convert("RGB") if opaque else white))
    if not opaque:
        expected[f"{name}.alpha"] = torch.from_numpy(np.array(with_alpha.getchannel("A")))[:, :, None]


def exif(orientation=None, comment=None, **texts):
    data = Image.Exif()
    if orientation:
        data[0x0112] = orientation
    if comment:
        data.get_ifd(0x8769)[0x9286] = comment
    for name, text in texts.items():
        data[{"make": 0x010F, "model": 0x0110}[name]] = text
    return data


A1111 = "a fox, façade 狐\nNegative prompt: blue\nSteps: 20, Sampler: Euler a, Seed: 5"


def smooth(height, width, channels):
    """A picture that JPEG does not make too large."""
    y, x, c = np.meshgrid(np.arange(height), np.arange(width), np.arange(channels), indexing="ij")
    return ((x * 9 + y * 13 * (c + 1) + x * y // 3) % 256).astype(np.uint8)


def make_formats(expected):
    """JPEG and WebP, transparency, EXIF."""
    rgb = Image.fromarray(smooth(17, 23, 3))
    rgba = Image.fromarray(smooth(9, 11, 4))
    key = Image.fromarray(np.array([[[1, 2, 3], [4, 5, 6]]], dtype=np.uint8))
    half = smooth(16, 16, 4)
    half[:, :, 3] = np.where(np.arange(16) < 8, 255, 0)
    pictures = {
        "rgb.jpg": (rgb, {"quality": 80}),
        "progressive.jpg": (rgb, {"quality": 90, "progressive": True, "subsampling": 0, "optimize": True}),
        "grey.jpg": (rgb.convert("L"), {}),
        "cmyk.jpg": (Image.fromarray(smooth(10, 12, 4), mode="CMYK"), {}),
        "lossless.webp": (rgb, {"lossless": True}),
        "lossless_alpha.webp": (rgba, {"lossless": True, "exact": True}),
        "lossy.webp": (rgb, {"quality": 80}),
        "lossy_alpha.webp": (rgba, {"quality": 80}),
        "colour_key.png": (key, {"transparency": (4, 5, 6)}),
        "opaque.png": (rgb.convert("RGBA"), {}),
        "half_transparent.png": (Image.fromarray(half), {}),
        "turned.jpg": (rgb, {"exif": exif(orientation=6)}),
        "turned_alpha.png": (rgba, {"exif": exif(orientation=8)}),
    }
    for orientation in range(1, 9):
        pictures[f"turned_{orientation}.webp"] = (rgb, {"lossless": True, "exif": exif(orientation)})
    for name, (picture, options) in pictures.items():
        picture.save(OUT / name, **options)
        expect(expected, name, Image.open(OUT / name))

    small = Image.fromarray(smooth(8, 8, 3))
    comment = b"UNICODE\0" + A1111.encode("utf-16-be")  # as A1111 writes it with piexif
    # A list of one entry in the other byte order: the offset of the EXIF part, then the comment.
    little = b"UNICODE\0" + A1111.encode("utf-16-le")
    header = b"Exif\0\0II*\0" + struct.pack("<IHHHIII", 8, 1, 0x8769, 4, 1, 26, 0)
    little_exif = header + struct.pack("<HHHIII", 1, 0x9286, 7, len(little), 44, 0) + little
    small.save(OUT / "a1111.jpg", exif=exif(comment=comment))
    small.save(OUT / "a1111.webp", exif=exif(comment=comment), lossless=True)
    small.save(OUT / "little_endian.jpg", exif=little_exif)
    small.save(OUT / "ascii.jpg", exif=exif(comment=b"ASCII\0\0\0a fox"))
    prompt = '{"3": {"class_type": "KSampler", "inputs": {"seed": 5}}}'
    small.save(OUT / "comfyui.webp", exif=exif(make='workflow:{"nodes": []}', model=f"prompt:{prompt}"), lossless=True)
    small.save(OUT / "animation.webp", save_all=True, append_images=[small.rotate(90)], lossless=True)
    # The frame header of arithmetic coding.
    (OUT / "arithmetic.jpg").write_bytes((OUT / "grey.jpg").read_bytes().replace(b"\xff\xc0", b"\xff\xc9", 1))


def make_pictures():
    generator = np.random.default_rng(0)
    noise = generator.integers(0, 256, (5, 7, 4), dtype=np.uint8)
    palette = Image.fromarray(noise[:, :, :3]).quantize(9)
    pictures = {
        "rgb": Image.fromarray(noise[:, :, :3]),
        "rgba": Image.fromarray(noise),
        "grey": Image.fromarray(noise[:, :, 0]),
        "grey_alpha": Image.fromarray(np.ascontiguousarray(noise[:, :, :2]), mode="LA"),
        "bit": Image.fromarray(noise[:, :, 0]).convert("1"),
        "palette": palette,
        "palette_alpha": palette,
    }
    text = PngInfo()
    text.add_text("parameters", "a fox\nSteps: 20, façade")
    text.add_itxt("Title", "狐", lang="ja", tkey="題")
    text.add_text("long", "word " * 100, zip=True)
    expected = {}
    for name, picture in pictures.items():
        options = {"transparency": bytes(range(9))} if name == "palette_alpha" else {}
        picture.save(OUT / f"{name}.png", pnginfo=text if name == "rgb" else None, **options)
        expect(expected, f"{name}.png" if "alpha" in name or name == "rgba" else name, Image.open(OUT / f"{name}.png"))
    grey16 = generator.integers(0, 65536, (5, 7), dtype=np.uint16)
    Image.fromarray(grey16).save(OUT / "grey16.png")
    # Pillow would clip: the nearest 8-bit value is what a reader should give.
    expected["grey16"] = torch.from_numpy(np.round(grey16 / 257).astype(np.uint8))[:, :, None].repeat(1, 1, 3)

    # Halves (k + 0.5) / 255 among the values: the rounding of ties shows.
    batch = torch.cat([torch.arange(0, 256) / 255, (torch.arange(0, 256) + 0.5) / 255, torch.rand(256, generator=torch.manual_seed(0))])
    batch = batch.clamp(0, 1).reshape(2, 3, 8, 16)
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        name = str(dtype).removeprefix("torch.")
        images = VaeImageProcessor().postprocess(batch.to(dtype), output_type="pil", do_denormalize=[False, False])
        expected[f"{name}.batch"] = batch.to(dtype)
        expected[f"{name}.pixels"] = torch.from_numpy(np.stack([np.array(image) for image in images]))
    make_formats(expected)
    save_file(expected, OUT / "pictures.expected.safetensors")


if __name__ == "__main__":
    OUT.mkdir(parents=True, exist_ok=True)
    make_safetensors()
    make_pickles()
    make_shards()
    make_pictures()
