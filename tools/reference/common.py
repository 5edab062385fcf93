"""What the scripts that make reference data share: where it goes, numbers that never change, files of stable bytes."""
import json
import logging
import os
import struct
import warnings
import zlib
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
import torch

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "tests" / "data"
VERSIONS = {"diffusers": "0.42.1", "peft": "0.21.2", "transformers": "5.23.0", "lycoris-lora": "4.1.3"}


def quiet(threads=1):
    """One thread, so that sums keep their order from run to run; and none of the peers' chatter."""
    import diffusers
    import transformers

    torch.set_num_threads(threads)
    warnings.filterwarnings("ignore")
    diffusers.utils.logging.set_verbosity_error()
    diffusers.utils.logging.disable_progress_bar()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    logging.disable(logging.CRITICAL)


def check_versions():
    """The reference data is only what it says it is when the reference is the one that it names."""
    import importlib.metadata

    for package, wanted in VERSIONS.items():
        found = importlib.metadata.version(package)
        if found != wanted:
            raise SystemExit(f"{package} {wanted} makes this data, {found} is installed")


def generator(name):
    """Random numbers of their own for each name: a new case never changes the others."""
    return torch.Generator().manual_seed(zlib.crc32(name.encode()))


def normal(name, shape, std=1.0):
    return torch.randn(shape, generator=generator(name)) * std


def as_numpy(tensor):
    return tensor.detach().cpu().contiguous().numpy()


NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def save_tensors(tensors, path, metadata=None, sort=True):
    """A safetensors file whose bytes depend on the content alone. `sort=False` keeps the order of `tensors`, which the
    safetensors package cannot do."""
    names = sorted(tensors) if sort else list(tensors)
    header, blobs, offset = {}, [], 0
    if metadata:
        header["__metadata__"] = dict(sorted(metadata.items()))
    for name in names:
        tensor = torch.as_tensor(tensors[name])
        blobs.append(as_numpy(tensor.contiguous().reshape(-1).view(torch.uint8)).tobytes())
        header[name] = {
            "dtype": NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + len(blobs[-1])],
        }
        offset += len(blobs[-1])
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(blobs))


def settle(path):
    """Puts the metadata of a safetensors file in order: the package writes it in one that changes from run to run."""
    data = path.read_bytes()
    end = 8 + struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:end])
    header["__metadata__"] = dict(sorted(header.get("__metadata__", {}).items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[end:])


def save_json(value, path):
    """Readable, and one line for each thing that has only plain values inside."""

    def plain(v):
        return not isinstance(v, (dict, list)) or all(
            not isinstance(x, (dict, list)) for x in (v.values() if isinstance(v, dict) else v)
        )

    def text(v, indent):
        if plain(v):
            return json.dumps(v, ensure_ascii=False)
        inner = indent + "  "
        if isinstance(v, dict):
            rows = [f"{inner}{json.dumps(k, ensure_ascii=False)}: {text(x, inner)}" for k, x in v.items()]
            return "{\n" + ",\n".join(rows) + f"\n{indent}}}"
        return "[\n" + ",\n".join(inner + text(x, inner) for x in v) + f"\n{indent}]"

    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text(value, "") + "\n")


def relative(a, b):
    """The largest difference, as a share of the largest value of b."""
    return ((a.double() - b.double()).abs().max() / b.double().abs().max()).item()


def sizes(folder):
    total = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
    return f"{folder.relative_to(ROOT)}: {total / 1e6:.2f} MB"
