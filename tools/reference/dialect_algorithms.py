"""Every algorithm of LoRA files: layers made by the trainer's own module, and what they do by formula.

A `Layer` is what a file holds of one module, under the suffixes of kohya and LyCORIS. `Layer.delta` is the formula, in
float64 and independent of the libraries; whoever makes a layer with a library compares the two.
"""

import copy
import math
from dataclasses import dataclass, replace

import torch
from common import relative
from dialect_models import random

TOLERANCE = 2e-6  # between the formula and a library in float32


@dataclass
class Layer:
    tensors: dict
    algorithm: str  # as the load's report calls it
    scale: float = None  # where a config says it: PEFT's files have no alphas
    kohya_oft: bool = False  # the constraint holds always, and alpha is it
    by_output: bool = True  # IA3 of PEFT: which side of the weight the factors are on
    exact: bool = False  # PEFT's OFT with the inverse, not its first terms

    @property
    def rank(self):
        return rank(self.tensors)

    @property
    def linear(self):
        """Whether a strength only multiplies what the layer does."""
        t = self.tensors
        return not any(k.startswith(("oft_", "lora_magnitude")) for k in t)

    def to(self, dtype):
        return replace(self, tensors={k: v.to(dtype) if v.is_floating_point() else v for k, v in self.tensors.items()})

    def delta(self, weight, bias=None):
        """(ΔW, Δb) at strength 1; None for no change."""
        t = {k: v.double() for k, v in self.tensors.items()}
        W = weight.detach().double()
        db = t.get("diff_b", t.get("b_norm"))
        if "base_layer.bias" in t:  # the trained bias itself
            db = t["base_layer.bias"] - bias.detach().double()
        if "diff" in t or "w_norm" in t:
            return t.get("diff", t.get("w_norm")).reshape(W.shape), db
        if "oft_blocks" in t:
            return oft(t, W, self.kohya_oft) - W, db
        if "oft_R.weight" in t:
            return oft_v2(t, W, self.exact) - W, db
        if "on_input" in t:
            return ia3(t["weight"].flatten(), W, not t["on_input"]), db
        if "ia3_l" in t:
            factors = t["ia3_l"].flatten() - 1
            scaled = bias is not None and self.by_output
            return ia3(factors, W, self.by_output), factors * bias.detach().double() if scaled else None
        if len(t) == 1 and db is not None:
            return None, db
        scale = scale_of(t) if self.scale is None else self.scale
        if "a1.weight" in t:
            return scale * glora(t, W), db
        dW = scale * product(t, W)
        if "lora_B.bias" in t:
            db = scale * t["lora_B.bias"]
        if "dora_scale" in t or "lora_magnitude_vector" in t:
            dW = dora(t, W + dW) - W
        return dW, db


# ---- Formulas --------------------------------------------------------------------------------------------------------


def rank(t):
    for down in ("lora_down.weight", "lora_embedding_A"):
        if down in t:
            return t[down].shape[0]
    if "hada_w1_b" in t:
        return t["hada_w1_b"].shape[0]
    if "lokr_w1" in t or "lokr_w1_a" in t:
        for factor in ("lokr_w2_b", "lokr_w1_b"):
            if factor in t:
                return t[factor].shape[0]
    if "a2.weight" in t:
        return min(t["a1.weight"].shape[:2])
    return 0


def is_old_glora(t):
    """Today's first factor takes the rank to the inputs, `[in, r]`; the older one's is the other way round."""
    return t["a1.weight"].shape[0] < t["a1.weight"].shape[1]


def scale_of(t):
    if "scale" in t:
        return t["scale"].item()
    if "alpha" not in t or rank(t) == 0:  # LoKr of two whole factors has none
        return 1.0
    return t["alpha"].item() / rank(t)


def product(t, W):
    """LoRA's, LoHa's and LoKr's ΔW without its scale."""
    if "hada_w1_a" in t:
        return (hadamard_part(t, 1, W) * hadamard_part(t, 2, W)).reshape(W.shape)
    if "lokr_w1" in t or "lokr_w1_a" in t:
        return kronecker(t).reshape(W.shape)
    if "lora_embedding_A" in t:
        return (t["lora_embedding_B"] @ t["lora_embedding_A"]).t()
    up, down = t["lora_up.weight"].flatten(1), t["lora_down.weight"].flatten(1)
    if "lora_mid.weight" in t:
        return torch.einsum("oa,abxy,bi->oixy", up, t["lora_mid.weight"], down)
    return (up @ down).reshape(*W.shape[:1], -1, *W.shape[2:])


def hadamard_part(t, n, W):
    a, b = t[f"hada_w{n}_a"], t[f"hada_w{n}_b"]
    if f"hada_t{n}" in t:
        return torch.einsum("abxy,ao,bi->oixy", t[f"hada_t{n}"], a, b)
    return (a.flatten(1) @ b.flatten(1)).reshape(W.shape)


def kronecker(t):
    w1 = t["lokr_w1"] if "lokr_w1" in t else t["lokr_w1_a"] @ t["lokr_w1_b"]
    if "lokr_w2" in t:
        w2 = t["lokr_w2"]
    elif "lokr_t2" in t:
        w2 = torch.einsum("pqxy,pb,qd->bdxy", t["lokr_t2"], t["lokr_w2_a"], t["lokr_w2_b"])
    else:
        w2 = t["lokr_w2_a"].flatten(1) @ t["lokr_w2_b"].flatten(1)
    return torch.einsum("ac,bdk->abcdk", w1.flatten(1), w2.reshape(*w2.shape[:2], -1))


def glora(t, W):
    a1, a2, b1, b2 = (t[k].flatten(1) for k in ("a1.weight", "a2.weight", "b1.weight", "b2.weight"))
    if is_old_glora(t):
        return b2 @ b1 + W @ a2 @ a1
    return (b1 @ b2).reshape(W.shape) + torch.einsum("oi...,ij->oj...", W, a1 @ a2)


def ia3(factors, W, by_output):
    shape = (-1, *[1] * (W.ndim - 1)) if by_output else (1, -1, *[1] * (W.ndim - 2))
    return W * factors.reshape(shape)


def dora(t, V):
    ones = [1] * (V.ndim - 1)
    m = t["lora_magnitude_vector"] if "lora_magnitude_vector" in t else t["dora_scale"]
    by_input = "dora_scale" in t and m.ndim > 1 and m.shape[0] == 1
    if by_input:
        return V * m / V.transpose(0, 1).flatten(1).norm(dim=1).reshape(1, -1, *ones[1:])
    return V * m.reshape(-1, *ones) / V.flatten(1).norm(dim=1).reshape(-1, *ones)


def cayley(t, W, kohya):
    Q = t["oft_blocks"] - t["oft_blocks"].transpose(-1, -2)
    limit, norm = t["alpha"].item() * W.shape[0], Q.norm()
    if (kohya or limit > 0) and norm > limit:
        Q = Q * limit / norm
    one = torch.eye(Q.shape[-1], dtype=Q.dtype)
    return (one + Q) @ (one - Q).inverse()


def oft(t, W, kohya):
    R = cayley(t, W, kohya)
    if R.ndim == 3:
        rotated = torch.einsum("knm,kn...->km...", R, W.unflatten(0, R.shape[:2])).reshape(W.shape)
    else:
        rotated = butterfly(R, W)
    return rotated * t["rescale"].reshape(-1, *[1] * (W.ndim - 1)) if "rescale" in t else rotated


def butterfly(R, W):
    """Row by row: stage i pairs rows that are k = 2^i b/2 apart, in blocks of b."""
    stages, _, b, _ = R.shape
    rows = torch.arange(W.shape[0])
    for i in range(stages):
        k = 2**i * b // 2
        order = rows.reshape(-1, 2, k).transpose(1, 2).flatten()
        mixed = torch.einsum("nij,nj...->ni...", R[i], W[order].unflatten(0, (-1, b))).reshape(W.shape)
        W = torch.empty_like(W)
        W[order] = mixed
    return W


def oft_v2(t, W, exact):
    vectors = t["oft_R.weight"]
    size = int((1 + math.sqrt(1 + 8 * vectors.shape[1])) / 2)
    if "oft_R.scaled_oft" in t:
        vectors = vectors / (2 * math.sqrt(size - 1))
    i, j = torch.triu_indices(size, size, 1)
    Q = torch.zeros(vectors.shape[0], size, size, dtype=torch.float64)
    Q[:, i, j] = vectors
    Q = Q - Q.transpose(1, 2)
    one, Q2 = torch.eye(size, dtype=Q.dtype), Q @ Q
    R = (one - Q) @ (one + Q).inverse() if exact else one + 2 * Q + 2 * Q2 + 2 * Q2 @ Q + Q2 @ Q2
    flat = W.flatten(1).reshape(W.shape[0], -1, size)
    return torch.einsum("onj,nij->oni", flat, R.expand(flat.shape[1], -1, -1)).reshape(W.shape)


# ---- Layers that need no library -------------------------------------------------------------------------------------


def rms(tensor):
    return tensor.double().pow(2).mean().sqrt().item()


def lora(name, module, rank=2, alpha=None, dtype=None, conv_up=4, weight=None):
    """kohya's LoRAModule, with random numbers in both factors: ΔW is about 0.4 of W, whatever the rank and the alpha."""
    W = module.weight if weight is None else weight
    out, inputs, *kernel = W.shape
    down = random(name + ".down", (rank, inputs, *kernel), (inputs * math.prod(kernel)) ** -0.5)
    up = random(name + ".up", (out, rank, *([1] * len(kernel) if conv_up == 4 else [])), 0.4 * rank**-0.5)
    t = {"lora_down.weight": down, "lora_up.weight": up}
    if alpha is not None:
        t["alpha"] = torch.tensor(float(alpha))
        if alpha > 0:
            t["lora_up.weight"] = up * (rank / alpha)
    layer = Layer(t, "lora")
    return layer.to(dtype) if dtype else layer


def old_glora(name, module, rank=2, alpha=1.0):
    out, inputs = module.weight.shape
    std = 0.5 * rank**-0.5
    t = {
        "a1.weight": random(name + ".a1", (rank, inputs), std),
        "a2.weight": random(name + ".a2", (inputs, rank), std),
        "b1.weight": random(name + ".b1", (rank, inputs), std),
        "b2.weight": random(name + ".b2", (out, rank), std),
        "alpha": torch.tensor(float(alpha)),
    }
    return Layer(t, "glora")


def kohya_oft(name, module, blocks=2, alpha=1e-3):
    size = module.weight.shape[0] // blocks
    t = {"oft_blocks": random(name, (blocks, size, size), 0.1), "alpha": torch.tensor(alpha)}
    return Layer(t, "oft", kohya_oft=True)


def oft_v2_layer(name, module, size=4, shared=False, scaled=False):
    """OneTrainer's, on linear layers."""
    blocks = 1 if shared else module.weight[0].numel() // size
    t = {"oft_R.weight": random(name, (blocks, size * (size - 1) // 2), 0.3 if scaled else 0.1)}
    if scaled:
        t["oft_R.scaled_oft"] = torch.tensor(True)
    return Layer(t, "oft")


# ---- LyCORIS ---------------------------------------------------------------------------------------------------------

# What takes the number that brings ΔW to a size, by algorithm.
CALIBRATED = ("lora_up.weight", "hada_w1_a", "lokr_w1", "lokr_w1_a")


def lycoris(kind, name, module, **options):
    """A layer of LyCORIS' own class, trained at random, compared with what that class computes."""
    from lycoris import modules as L

    classes = dict(
        lora=L.LoConModule,
        loha=L.LohaModule,
        lokr=L.LokrModule,
        glora=L.GLoRAModule,
        ia3=L.IA3Module,
        oft=L.DiagOFTModule,
        boft=L.ButterflyOFTModule,
        diff=L.FullModule,
        norm=L.NormModule,
    )
    base = copy.deepcopy(module).requires_grad_(False)
    weight, bias = base.weight.clone(), None if base.bias is None else base.bias.clone()
    if kind == "norm":
        options = {}
    made = classes[kind]("layer", base, multiplier=1.0, **options)
    if kind == "diff":
        made.apply_to()
    train(made, name, weight)
    made.eval()
    tensors = {k: v.detach().clone() for k, v in made.state_dict().items()}
    layer = Layer(tensors, "diff" if kind == "norm" else "dora" if "dora_scale" in tensors else kind)
    check(made, layer, module, name, weight, bias)
    return layer


@torch.no_grad()
def train(made, name, weight):
    std = {"oft_blocks": 0.1, "a1": 0.4, "a2": 0.4, "b1": 0.4, "b2": 0.4}
    for key, p in made.named_parameters():
        noise = random(f"{name}.{key}", p.shape)
        if key in ("dora_scale", "rescale"):
            p.mul_(1 + 0.2 * noise)
        elif key == "scalar":
            p.fill_(0.8)
        elif key in ("w_norm", "b_norm"):
            p.copy_(0.2 * noise)
        elif key in ("weight", "bias") and "full" in made.name:
            p.add_(0.2 * noise)
        elif key == "weight":  # IA3
            p.copy_(0.3 * noise)
        else:
            p.copy_(std.get(key.split(".")[0], 0.5) * noise)
    t = {k: v.double() for k, v in made.state_dict().items()}
    calibrated = [k for k in CALIBRATED if k in t]
    if calibrated:
        factor = 0.4 * rms(weight) / rms(scale_of(t) * product(t, weight))
        dict(made.named_parameters())[calibrated[0]].mul_(factor)


@torch.no_grad()
def check(made, layer, module, name, weight, bias):
    """The forward pass is what was trained; get_diff_weight multiplies by the scale twice for LoHa and LoKr."""
    dW, db = layer.delta(weight, bias)
    W, b = weight.double() + dW, bias if db is None else db + (0 if bias is None else bias)
    if isinstance(module, torch.nn.Conv2d):
        x = random("x", (2, module.in_channels, 5, 5))
    elif isinstance(module, torch.nn.GroupNorm):
        x = random("x", (2, weight.shape[0], 3, 3))
    else:
        x = random("x", (2, weight.shape[-1]))
    reference = copy.deepcopy(module).double()
    reference.weight.data = W
    if b is not None:
        reference.bias = torch.nn.Parameter(b.double())
    wanted, got = reference(x.double()), made(x)
    assert relative(got, wanted) < TOLERANCE, (name, relative(got, wanted))
    assert layer.algorithm in ("diff",) or relative(wanted, module(x)) > 0.01, name


# ---- PEFT ------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def peft(config, name, model, paths):
    """Adapters of PEFT's own: path → layer, the file's tensors as PEFT names them, and its adapter_config.json."""
    from peft import get_peft_model, get_peft_model_state_dict

    wrapped = get_peft_model(copy.deepcopy(model), config)
    for key, p in wrapped.named_parameters():
        if ".default" not in key:
            continue
        noise = random(f"{name}.{key}", p.shape)
        if "ia3_l" in key:
            p.copy_(1 + 0.3 * noise)
        elif "magnitude" in key:
            p.mul_(1 + 0.2 * noise)
        else:
            p.copy_(noise * (0.1 if "oft_R" in key else 0.5))
    if getattr(config, "bias", "none") != "none":
        for key, p in wrapped.named_parameters():
            if key.endswith("bias"):
                p.add_(random(f"{name}.{key}", p.shape, 0.2))
    state = get_peft_model_state_dict(wrapped)
    layers, loaded = {}, dict(wrapped.base_model.model.named_modules())
    for path in paths:
        at = loaded[path]
        base, original = at.get_base_layer(), model.get_submodule(path)
        weight, bias = original.weight.clone(), None if original.bias is None else original.bias.clone()
        start = f"base_model.model.{path}."
        t = {k.removeprefix(start): v.clone() for k, v in state.items() if k.startswith(start)}
        layer = Layer({PEFT_SUFFIX.get(k, k): v for k, v in t.items()}, peft_algorithm(t))
        if hasattr(at, "scaling"):
            layer.scale = at.scaling["default"]
        layer.by_output = not getattr(at, "is_feedforward", False)
        layer.exact = not getattr(config, "use_cayley_neumann", True)
        dW, db = layer.delta(weight, bias)
        at.merge()
        assert relative(base.weight, weight.double() + dW) < TOLERANCE, (name, path)
        if db is not None:
            assert relative(base.bias, bias.double() + db) < TOLERANCE, (name, path)
        layers[path] = layer
    fields = {k: sorted(v) if isinstance(v, set) else v for k, v in sorted(config.to_dict().items())}
    return layers, {k: v.clone() for k, v in state.items()}, fields


PEFT_SUFFIX = {"lora_A.weight": "lora_down.weight", "lora_B.weight": "lora_up.weight"}


def peft_algorithm(t):
    if any("magnitude" in k for k in t):
        return "dora"
    for part, algorithm in (("hada", "loha"), ("lokr", "lokr"), ("oft", "oft"), ("ia3", "ia3")):
        if any(part in k for k in t):
            return algorithm
    return "lora"
