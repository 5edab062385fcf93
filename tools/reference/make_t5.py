"""Makes tests/data/models/t5*: configs of tiny T5 encoders and what transformers computes with them.

    python tools/reference/make_t5.py

Weights and ids follow from their names (tiny.py), so that only outputs are stored.
"""

import json
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import T5Config, T5EncoderModel

from common import quiet
from tiny import shape_tree, tokens, weight

DATA = Path(__file__).resolve().parents[2] / "tests" / "data" / "models"

# What transformers writes beside the fields that a test sets is in the configs too.
CONFIGS = {
    "v1_0": {"vocab_size": 40, "d_model": 16, "d_kv": 6, "d_ff": 24, "num_layers": 3, "num_heads": 4,
             "feed_forward_proj": "relu", "layer_norm_epsilon": 1e-3},
    "v1_1": {"vocab_size": 40, "d_model": 16, "d_kv": 4, "d_ff": 24, "num_layers": 2, "num_heads": 4,
             "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
    "buckets": {"vocab_size": 40, "d_model": 8, "d_kv": 4, "d_ff": 12, "num_layers": 2, "num_heads": 2,
                "feed_forward_proj": "gated-gelu", "relative_attention_num_buckets": 12,
                "relative_attention_max_distance": 20},
}
# Images and tokens. 150 tokens are further apart than any bucket tells.
RUNS = {"v1_0": {"short": [2, 7], "long": [1, 150]}, "v1_1": {"short": [2, 7], "one": [1, 1], "long": [1, 150]},
        "buckets": {"long": [1, 60]}}
HALVES = ["bfloat16", "float16"]

# As published with Stable Diffusion 3.
XXL = {"architectures": ["T5EncoderModel"], "classifier_dropout": 0.0, "d_ff": 10240, "d_kv": 64, "d_model": 4096,
       "decoder_start_token_id": 0, "dense_act_fn": "gelu_new", "dropout_rate": 0.1, "eos_token_id": 1,
       "feed_forward_proj": "gated-gelu", "initializer_factor": 1.0, "is_encoder_decoder": True, "is_gated_act": True,
       "layer_norm_epsilon": 1e-06, "model_type": "t5", "num_decoder_layers": 24, "num_heads": 64, "num_layers": 24,
       "output_past": True, "pad_token_id": 0, "relative_attention_max_distance": 128,
       "relative_attention_num_buckets": 32, "tie_word_embeddings": False, "torch_dtype": "float16",
       "transformers_version": "4.41.2", "use_cache": True, "vocab_size": 32128}


def fill(model):
    tensors = {k: weight(k, tuple(v.shape)) for k, v in model.state_dict().items()}
    tensors["encoder.embed_tokens.weight"] = tensors["shared.weight"]
    model.load_state_dict(tensors)
    return model.eval()


def outputs_of(model, label, shape):
    with torch.inference_mode():
        return model(tokens(f"{label}.ids", tuple(shape), 40)).last_hidden_state.contiguous()


def main():
    quiet()
    cases, outputs = {}, {}
    for name, fields in CONFIGS.items():
        model = fill(T5EncoderModel(T5Config(**fields)))
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            config = json.loads((Path(folder) / "config.json").read_text())
            # Loaded so, for what a dtype means to a model is decided there.
            halves = {d: T5EncoderModel.from_pretrained(folder, dtype=getattr(torch, d)).eval() for d in HALVES}
        cases[name] = {"config": config, "layers": shape_tree(model), "runs": RUNS[name]}
        for run, shape in RUNS[name].items():
            outputs[f"{name}.{run}"] = outputs_of(model, f"{name}.{run}", shape)
            for dtype, half in halves.items():
                if run == "short":
                    outputs[f"{name}.{run}.{dtype}"] = outputs_of(half, f"{name}.{run}", shape)
    with torch.device("meta"):
        xxl = T5EncoderModel(T5Config(**XXL))
    cases["xxl"] = {"config": XXL, "layers": shape_tree(xxl), "runs": {}}
    (DATA / "t5_cases.json").write_text(json.dumps(cases, separators=(",", ":")) + "\n")
    save_file(outputs, DATA / "t5_outputs.safetensors")


if __name__ == "__main__":
    main()
