"""Numbers that Python and the tests make alike, without a file: what the reference scripts of models share."""

import numpy as np
import torch

MASK = np.uint64(0xFFFFFFFF)


def name_hash64(name):
    h = 0xCBF29CE484222325
    for byte in name.encode():
        h = ((h ^ byte) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return h


def name_hash(name):
    h = name_hash64(name)
    return (h ^ (h >> 32)) & 0xFFFFFFFF


def noise(name, shape):
    """Uniform in [-1, 1), as float64: exact in any language that has 64-bit integers."""
    n = int(np.prod(shape))
    x = (np.arange(n, dtype=np.uint64) * np.uint64(0x9E3779B9) + np.uint64(name_hash(name))) & MASK
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        x ^= x >> np.uint64(shift)
        x = (x * np.uint64(factor)) & MASK
    x ^= x >> np.uint64(16)
    return torch.from_numpy(x.astype(np.float64) / 2.0**31 - 1.0).reshape(shape)


def input_tensor(name, shape):
    return (noise(name, shape) * 1.7).float()


def tokens(name, shape, count):
    """Whole numbers below `count`."""
    return ((noise(name, shape) + 1) / 2 * count).long()


def weight(name, shape):
    """Sized so that activations keep their variance, attention is not even and every bias shows."""
    u = noise(name, shape)
    if len(shape) > 1:
        return (u * (3.0 / np.prod(shape[1:])) ** 0.5).float()
    return (1 + 0.3 * u if name.endswith("weight") else 0.3 * u).float()


def fill(model):
    model.load_state_dict({k: weight(k, tuple(v.shape)) for k, v in model.state_dict().items()})
    return model.eval()


def shape_tree(model):
    """Names and shapes of the parameters without repeated prefixes; a layer is [weight] or [weight, bias], a parameter
    of another name its shape."""
    tree = {}
    for key, value in model.named_parameters():
        *path, kind = key.split(".")
        node = tree
        for part in path[:-1]:
            node = node.setdefault(part, {})
        if kind not in ("weight", "bias"):
            node.setdefault(path[-1], {})[kind] = list(value.shape)
            continue
        layer = node.setdefault(path[-1], [])
        assert kind == ("bias" if layer else "weight"), key
        layer.append(list(value.shape))
    return tree
