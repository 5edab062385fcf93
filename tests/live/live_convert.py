#!/usr/bin/env python3
"""What `lora convert` writes, read by diffusers and PEFT: the same effect, and every name one that they know.

    build/venv/bin/python tests/live/live_convert.py LORA_COMMAND
"""
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools" / "reference"))
try:
    import torch
    from common import check_versions, quiet, relative, save_tensors
    from diffusers import UNet2DConditionModel
    from diffusers.loaders import lora_conversion_utils as theirs
    from lora_models import COMPONENTS, OUT, load_models, make_inputs, outputs
    from lora_spellings import FILES
    from make_lora import pipeline
    from peft import PeftModel
    from safetensors.torch import load_file
except ImportError as error:
    sys.exit(f"live_convert.py: {error}; run `make test`, which installs the reference in build/venv")

OUTPUT = 1e-5  # what outputs may differ by, as a share of the largest value
CONVERTED = "kohya_layer_alphas", "kohya_mixed_ranks", "kohya_conv_dim", "peft_dora", "peft_rslora"
SDXL = dict(
    sample_size=128,
    cross_attention_dim=2048,
    attention_head_dim=[5, 10, 20],
    block_out_channels=(320, 640, 1280),
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    transformer_layers_per_block=[1, 2, 10],
    use_linear_projection=True,
    addition_embed_type="text_time",
    addition_time_embed_dim=256,
    projection_class_embeddings_input_dim=2816,
)
SD15 = dict(sample_size=64, cross_attention_dim=768, attention_head_dim=8, block_out_channels=(320, 640, 1280, 1280))


class Converter:
    def __init__(self, command, folder):
        self.command, self.folder, self.count = command, folder, 0

    def __call__(self, file, to):
        self.count += 1
        out = self.folder / (f"{self.count}" if to == "peft" else f"{self.count}.safetensors")
        command = [self.command, "convert", file, "--to", to, "-o", out]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run([*map(str, command)], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return out


def moved_and_same(got, wanted, base):
    moved = max(relative(wanted[c], base[c]) for c in COMPONENTS)
    assert moved > 0.01, f"the adapter changes the outputs by {moved:.1e}: nothing is tested"
    worst = max(relative(got[c], wanted[c]) for c in COMPONENTS)
    assert worst <= OUTPUT, f"outputs differ by {worst:.1e}"
    return f"{worst:.1e}"


def by_diffusers(file, inputs):
    pipe = pipeline()
    pipe.load_lora_weights(str(file.parent), weight_name=file.name)
    return outputs({c: getattr(pipe, c) for c in COMPONENTS}, inputs)


def by_peft(folder, inputs):
    models = load_models()
    for part in folder.iterdir():
        models[part.name] = PeftModel.from_pretrained(models[part.name], part).base_model.model
    return outputs(models, inputs)


def whole_file(file, unet):
    """Rank 1 on every linear layer and convolution, as PEFT names them, no two tensors alike."""
    tensors = {}
    for i, (path, module) in enumerate(unet.named_modules()):
        if isinstance(module, (torch.nn.Linear, torch.nn.Conv2d)):
            out, *rest = module.weight.shape
            tensors[f"unet.{path}.lora_A.weight"] = torch.full((1, *rest), i + 0.25, dtype=torch.float32)
            tensors[f"unet.{path}.lora_B.weight"] = torch.full((out, 1, *[1] * (len(rest) - 1)), i + 0.75)
    save_tensors(tensors, file)
    return tensors


def modern(key):
    """A key of diffusers' converter as PEFT has it."""
    key = key.replace(".processor.", ".").replace("to_out_lora.", "to_out.0.lora.")
    key = re.sub(r"\.(to_[qkv])_lora\.", r".\1.lora.", key)
    return key.replace(".lora.down.", ".lora_A.").replace(".lora.up.", ".lora_B.")


def names_of(convert, folder, name, config):
    with torch.device("meta"):
        unet = UNet2DConditionModel(**config)
    file = folder / f"{name}.safetensors"
    wanted = whole_file(file, unet)
    kohya = load_file(convert(file, "kohya"))
    modules = {key.split(".")[0] for key in kohya}
    if name == "sd15":
        paths = {key.removeprefix("unet.").rsplit(".", 2)[0] for key in wanted}
        assert modules == {"lora_unet_" + path.replace(".", "_") for path in paths}, "other names than LyCORIS'"
    else:
        assert any(m.startswith("lora_unet_input_blocks_") for m in modules), "not the native names"
        kohya = theirs._maybe_map_sgm_blocks_to_diffusers(kohya, unet.config)
    got, _ = theirs._convert_non_diffusers_lora_to_diffusers(kohya)
    got = {modern(key): tensor for key, tensor in got.items()}
    assert set(got) == set(wanted), sorted(set(got) ^ set(wanted))[:4]
    assert all(torch.equal(got[key], tensor) for key, tensor in wanted.items()), "another layer's numbers"
    return f"{len(modules)} layers"


def main():
    check_versions()
    quiet()
    torch.set_num_threads(1)
    failures = []

    def case(name, work):
        try:
            print(f"ok {name} ({work()})", flush=True)
        except Exception as error:
            failures.append(name)
            print(f"FAILED {name}: {type(error).__name__}: {error}", flush=True)

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        convert, inputs = Converter(sys.argv[1], folder), make_inputs()
        base, stored = outputs(load_models(), inputs), load_file(OUT / "expected.safetensors")
        for name in CONVERTED:
            file = FILES / f"{name}.safetensors"
            wanted = {c: stored.get(f"{file.name}@1.0.{c}", base[c]) for c in COMPONENTS}
            case(f"{name} for diffusers", lambda: moved_and_same(by_diffusers(convert(file, "diffusers"), inputs), wanted, base))
            case(f"{name} for PEFT", lambda: moved_and_same(by_peft(convert(file, "peft"), inputs), wanted, base))
        case("kohya's names of SD 1.5", lambda: names_of(convert, folder, "sd15", SD15))
        case("kohya's names of SDXL", lambda: names_of(convert, folder, "sdxl", SDXL))
    sys.exit(f"{len(failures)} failed: {', '.join(failures)}" if failures else 0)


if __name__ == "__main__":
    main()
