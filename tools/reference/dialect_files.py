"""What the scripts that write tests/data/dialects share: files with what they do, rows of layers, and which modules."""

import torch
from common import DATA, save_tensors
from dialect_algorithms import lora, lycoris
from dialect_models import flux, mmdit, module, sgm
from dialect_spellings import Row

OUT = DATA / "dialects"

# ---- What is written ------------------------------------------------------------------------------------------------


class Writer:
    def __init__(self):
        self.files, self.malformed, self.expected = {}, {}, {}

    def add(self, file, model, rows, spell, dialect, architecture="", metadata=None, tensors=None, **more):
        """A file of layers. `tensors` replaces what `spell` says, or is beside it where spell is given too."""
        content = {**(spell(rows) if spell else {}), **(tensors or {})}
        save_tensors(content, OUT / file, metadata, sort=False)
        self.expect(file, model, rows, dialect, architecture, **more)

    def expect(self, file, model, rows, dialect, architecture="", **more):
        assert file not in self.files
        layers = {}
        for row in rows:
            for path, layer, dW, db in parts(row, model):
                layers.setdefault(row.component, {})[path] = [layer.algorithm, layer.rank, layer.linear]
                for end, delta in (("weight", dW), ("bias", db)):
                    if delta is not None:
                        self.expected[f"{file}|{row.component}.{path}.{end}"] = delta.float().contiguous()
        self.files[file] = dict(model=model, dialect=dialect, architecture=architecture, **more, layers=layers)

    def bad(self, file, model, content, error=None, says="", metadata=None, **more):
        if content is not None:
            save_tensors(content, OUT / file, metadata, sort=False)
        what = dict(error=error) if error else {}
        self.malformed[file] = dict(model=model, **what, says=says, **more)


def parts(row, model):
    """(path in diffusers, layer, ΔW, Δb) of each module that a row is."""
    if model == "flux":
        native, inputs = flux(row.name) if row.native is None else row.native
        dW, db = row.layer.delta(torch.zeros(sum(native.rows), inputs))
        return [(p, row.layer, w, b) for p, w, b in zip(native.paths, native.split(dW), native.split(db))]
    if row.native is None:
        at = module(model, row.component, row.name)
        return [(row.name, row.layer, *row.layer.delta(at.weight, getattr(at, "bias", None)))]
    dW, db = row.layer.delta(native_weight(row.native))
    return [(p, row.layer, w, b) for p, w, b in zip(row.native.paths, row.native.split(dW), row.native.split(db))]


def native_weight(native):
    return native.join([module("sd3", "transformer", p).weight.detach() for p in native.paths])


def native_module(native):
    """A layer as the native model has it, from diffusers' of the same rows."""
    ats = [module("sd3", "transformer", p) for p in native.paths]
    bias = None if ats[0].bias is None else native.join([a.bias.detach() for a in ats])
    weight = native_weight(native)
    if weight.ndim == 4:
        made = torch.nn.Conv2d(weight.shape[1], weight.shape[0], weight.shape[2], ats[0].stride, bias=bias is not None)
    else:
        made = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    made.weight.data = weight
    if bias is not None:
        made.bias.data = bias
    return made


def on(model, component, paths, make, file):
    """A row for each path, its layer by `make(name, module, i)`."""
    rows = []
    for i, path in enumerate(paths):
        at = module(model, component, path)
        rows.append(Row(component, path, make(f"{file}.{component}.{path}", at, i)))
    return rows


def native_rows(names, make, file):
    rows = []
    for i, name in enumerate(names):
        native = mmdit(name)
        rows.append(Row("transformer", name, make(f"{file}.{name}", native_module(native), i), native))
    return rows


def flux_rows(names, file, rank=2, alpha=None):
    rows = []
    for name in names:
        native, inputs = flux(name)
        rows.append(
            Row(
                "transformer",
                name,
                lora(f"{file}.{name}", None, rank, alpha, weight=torch.zeros(sum(native.rows), inputs)),
            )
        )
    return rows


def plain(rank=2, alpha=1.0, dtype=None):
    return lambda name, at, i: lora(name, at, rank, alpha, dtype)


def of(kind, **options):
    return lambda name, at, i: lycoris(kind, name, at, **options)


def to_sgm(rows, model):
    return [Row(r.component, sgm(r.name, model) if r.component == "unet" else r.name, r.layer) for r in rows]


# ---- Which modules ---------------------------------------------------------------------------------------------------

BLOCK = "transformer_blocks.0"
SD_ATTENTION = [
    f"down_blocks.1.attentions.0.{BLOCK}.attn1.to_q",
    f"mid_block.attentions.0.{BLOCK}.attn2.to_out.0",
    f"up_blocks.1.attentions.2.{BLOCK}.ff.net.0.proj",
    f"up_blocks.3.attentions.1.{BLOCK}.ff.net.2",
    "down_blocks.0.attentions.1.proj_in",
]
SD_QKVO = [f"down_blocks.2.attentions.1.{BLOCK}.attn1.{leaf}" for leaf in ("to_q", "to_k", "to_v", "to_out.0")]
TEXT_EMBEDDINGS = f"down_blocks.0.attentions.0.{BLOCK}.attn2.to_k"
SD_CONVOLUTIONS = [
    "down_blocks.2.resnets.1.conv1",
    "down_blocks.0.downsamplers.0.conv",
    "up_blocks.0.upsamplers.0.conv",
    "up_blocks.2.resnets.0.conv_shortcut",
    "mid_block.resnets.1.time_emb_proj",
]
TEXT = [
    "text_model.encoder.layers.1.self_attn.q_proj",
    "text_model.encoder.layers.0.self_attn.out_proj",
    "text_model.encoder.layers.0.mlp.fc1",
]
KINDS = [
    f"down_blocks.2.attentions.0.{BLOCK}.attn1.to_q",
    f"up_blocks.3.attentions.1.{BLOCK}.ff.net.0.proj",
    "down_blocks.2.resnets.0.conv1",
    "up_blocks.2.resnets.0.conv_shortcut",
]
XL_ATTENTION = [
    f"down_blocks.1.attentions.1.{BLOCK}.attn1.to_v",
    "down_blocks.2.attentions.0.transformer_blocks.1.attn2.to_out.0",
    "mid_block.attentions.0.proj_in",
    "up_blocks.0.attentions.2.transformer_blocks.1.ff.net.0.proj",
    f"up_blocks.1.attentions.0.{BLOCK}.attn1.to_q",
]
XL_CONVOLUTIONS = [
    "down_blocks.0.resnets.1.conv2",
    "down_blocks.1.downsamplers.0.conv",
    "up_blocks.0.upsamplers.0.conv",
    "up_blocks.2.resnets.2.conv_shortcut",
    "mid_block.resnets.0.time_emb_proj",
]
XL_REST = ["conv_in", "time_embedding.linear_2", "add_embedding.linear_1", "add_embedding.linear_2", "conv_out"]
T5 = ["encoder.block.0.layer.0.SelfAttention.q", "encoder.block.1.layer.1.DenseReluDense.wi_0"]
MMDIT = [
    "joint_blocks.0.x_block.attn.qkv",
    "joint_blocks.1.context_block.attn.qkv",
    "joint_blocks.0.x_block.attn2.qkv",
    "joint_blocks.1.x_block.attn.proj",
    "joint_blocks.1.context_block.mlp.fc2",
]
MMDIT_SWAPPED = [
    "joint_blocks.0.context_block.adaLN_modulation.1",
    "joint_blocks.2.context_block.adaLN_modulation.1",
    "joint_blocks.2.x_block.adaLN_modulation.1",
    "final_layer.adaLN_modulation.1",
]
MMDIT_EMBEDDERS = ["x_embedder.proj", "context_embedder", "t_embedder.mlp.0", "y_embedder.mlp.2", "final_layer.linear"]
SD3_PATHS = [
    "transformer_blocks.0.attn.to_q",
    "transformer_blocks.1.attn.add_k_proj",
    "transformer_blocks.0.attn2.to_out.0",
    "transformer_blocks.2.ff.net.0.proj",
    "transformer_blocks.1.norm1_context.linear",
]
AMUSED_PATHS = [
    "transformer_layers.1.attn1.to_q",
    "transformer_layers.0.attn2.to_out.0",
    "transformer_layers.0.ff.net.0.proj",
    "up_block.attention_blocks.0.attn1.to_v",
    "down_block.res_blocks.0.channelwise_linear_1",
    "mlm_layer.conv1",
]
FLUX_NAMES = [
    "double_blocks.0.img_attn.qkv",
    "double_blocks.3.txt_attn.qkv",
    "double_blocks.1.txt_mlp.2",
    "double_blocks.2.img_mod.lin",
    "single_blocks.5.linear1",
    "single_blocks.0.linear2",
    "single_blocks.2.modulation.lin",
]
