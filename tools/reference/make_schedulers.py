"""Makes tests/data/schedulers: whole runs of diffusers' schedulers with a cheap function in the model's place.

Needs torch, safetensors, diffusers==0.42.1, scipy and torchsde. Run it from anywhere: python tools/reference/make_schedulers.py
"""

import inspect
import json
import math
from pathlib import Path

import diffusers
import numpy
import torch
from diffusers.utils.torch_utils import randn_tensor
from safetensors.torch import save_file

OUT = Path(__file__).resolve().parents[2] / "tests/data/schedulers"
SHAPE = (2, 4, 4, 4)
MOST_KEPT = 8  # samples kept of a run: the first ones, the last one and some between

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}

# As published with Stable Diffusion 1.5, 2.1 and XL.
SD15 = {**BETAS, "_class_name": "PNDMScheduler", "_diffusers_version": "0.6.0", "set_alpha_to_one": False,
        "skip_prk_steps": True, "steps_offset": 1, "trained_betas": None, "clip_sample": False}
SD21 = {**BETAS, "_class_name": "DDIMScheduler", "_diffusers_version": "0.8.0", "set_alpha_to_one": False,
        "skip_prk_steps": True, "steps_offset": 1, "trained_betas": None, "clip_sample": False,
        "prediction_type": "v_prediction"}
SDXL = {**BETAS, "_class_name": "EulerDiscreteScheduler", "_diffusers_version": "0.19.0.dev0", "clip_sample": False,
        "interpolation_type": "linear", "prediction_type": "epsilon", "sample_max_value": 1.0,
        "set_alpha_to_one": False, "skip_prk_steps": True, "steps_offset": 1, "timestep_spacing": "leading",
        "trained_betas": None, "use_karras_sigmas": False}
# The config of a small v-prediction model with zero terminal SNR.
ZERO_SNR = {**BETAS, "_class_name": "DDIMScheduler", "clip_sample": False, "clip_sample_range": 1.0,
            "dynamic_thresholding_ratio": 0.995, "prediction_type": "v_prediction", "rescale_betas_zero_snr": True,
            "sample_max_value": 1.0, "set_alpha_to_one": True, "steps_offset": 1, "thresholding": False,
            "timestep_spacing": "trailing", "trained_betas": None}
UNIPC = {**BETAS, "_class_name": "UniPCMultistepScheduler", "solver_type": "bh2", "predict_x0": True, "solver_order": 2,
         "disable_corrector": [], "solver_p": None, "lower_order_final": True, "steps_offset": 1}

DDIM = {**BETAS, "_class_name": "DDIMScheduler", "clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1}
PNDM = {**BETAS, "_class_name": "PNDMScheduler"}
EULER = {**BETAS, "_class_name": "EulerDiscreteScheduler"}
ANCESTRAL = {**BETAS, "_class_name": "EulerAncestralDiscreteScheduler"}
DPM = {**BETAS, "_class_name": "DPMSolverMultistepScheduler"}
LCM = {**BETAS, "_class_name": "LCMScheduler"}
HEUN = {**BETAS, "_class_name": "HeunDiscreteScheduler"}
SDE = {**BETAS, "_class_name": "DPMSolverSDEScheduler"}
SINGLE = {**BETAS, "_class_name": "DPMSolverSinglestepScheduler"}
DEIS = {**BETAS, "_class_name": "DEISMultistepScheduler"}
TCD = {**BETAS, "_class_name": "TCDScheduler"}

# As published with Stable Diffusion 3 and 3.5, FLUX.1 dev and LTX-Video.
SD3 = {"_class_name": "FlowMatchEulerDiscreteScheduler", "_diffusers_version": "0.29.0.dev0",
       "num_train_timesteps": 1000, "shift": 3.0}
SD35 = {**SD3, "base_image_seq_len": 256, "base_shift": 0.5, "invert_sigmas": False, "max_image_seq_len": 4096,
        "max_shift": 1.15, "shift_terminal": None, "time_shift_type": "exponential", "use_beta_sigmas": False,
        "use_dynamic_shifting": False, "use_exponential_sigmas": False, "use_karras_sigmas": False}
FLUX = {**SD35, "use_dynamic_shifting": True}
LTX = {**FLUX, "shift": 1.0, "base_shift": 0.95, "max_shift": 2.05, "shift_terminal": 0.1}


def runs():
    """Yields (name, config, options).

    Options: steps, class_name, seeds (one for the batch or one an image), eta, dtype, begin (image-to-image: the index
    of the first timestep, told to the scheduler), middle (the same, not told), mu, sigmas.
    """
    for steps in (1, 2, 3, 5, 20, 50):
        yield f"sd15-pndm-{steps}", SD15, {"steps": steps}
        yield f"sd21-ddim-{steps}", SD21, {"steps": steps}
        yield f"sdxl-euler-{steps}", SDXL, {"steps": steps}
        yield f"dpmpp-2m-{steps}", DPM, {"steps": steps}

    yield "zero-snr-ddim", ZERO_SNR, {"steps": 20}
    yield "zero-snr-ddim-all", ZERO_SNR, {"steps": 1000}
    yield "ddim-eta-0.5", DDIM, {"steps": 10, "eta": 0.5, "seeds": [3]}
    yield "ddim-eta-1", DDIM, {"steps": 10, "eta": 1.0, "seeds": [3, 4]}
    yield "zero-snr-ddim-eta-0.5", ZERO_SNR, {"steps": 10, "eta": 0.5, "seeds": [3, 4]}
    yield "ddim-sample", {**DDIM, "prediction_type": "sample"}, {"steps": 7}
    yield "ddim-linspace", {**DDIM, "timestep_spacing": "linspace"}, {"steps": 7}
    yield "ddim-trailing", {**DDIM, "timestep_spacing": "trailing"}, {"steps": 7}
    yield "ddim-clip", {**DDIM, "clip_sample": True, "clip_sample_range": 0.8}, {"steps": 7}
    yield "ddim-threshold", {**DDIM, "thresholding": True, "sample_max_value": 1.5}, {"steps": 7}
    yield "ddim-linear-betas", {**DDIM, "beta_schedule": "linear", "num_train_timesteps": 250}, {"steps": 7}
    yield "ddim-cosine-betas", {**DDIM, "beta_schedule": "squaredcos_cap_v2"}, {"steps": 7}
    trained = {"num_train_timesteps": 8, "trained_betas": [0.01, 0.02, 0.04, 0.08, 0.1, 0.2, 0.3, 0.4]}
    yield "ddim-trained-betas", {**DDIM, **trained, "steps_offset": 0}, {"steps": 8}
    yield "ddim-defaults", {"_class_name": "DDIMScheduler"}, {"steps": 6}

    for steps in (4, 5, 20):
        yield f"pndm-prk-{steps}", PNDM, {"steps": steps}
    yield "pndm-prk-v-trailing", {**PNDM, "prediction_type": "v_prediction", "timestep_spacing": "trailing"}, {"steps": 6}
    yield "pndm-linspace", {**SD15, "timestep_spacing": "linspace", "set_alpha_to_one": True}, {"steps": 9}

    for spacing in ("linspace", "leading", "trailing"):
        yield f"euler-{spacing}", {**EULER, "timestep_spacing": spacing}, {"steps": 7}
        yield f"ancestral-{spacing}", {**ANCESTRAL, "timestep_spacing": spacing}, {"steps": 7, "seeds": [5]}
        yield f"dpmpp-{spacing}", {**DPM, "timestep_spacing": spacing}, {"steps": 7}
    yield "euler-trailing-61", {**EULER, "timestep_spacing": "trailing"}, {"steps": 61}
    yield "dpmpp-trailing-103", {**DPM, "timestep_spacing": "trailing"}, {"steps": 103}
    zero_snr = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing", "prediction_type": "v_prediction"}
    yield "euler-zero-snr", {**EULER, **zero_snr}, {"steps": 20}
    yield "ancestral-zero-snr", {**ANCESTRAL, **zero_snr}, {"steps": 20, "seeds": [6, 7]}
    yield "dpmpp-zero-snr", {**DPM, **zero_snr}, {"steps": 20}
    yield "lcm-zero-snr", {**LCM, **zero_snr}, {"steps": 4, "seeds": [8]}
    for steps in (1, 5, 20, 30):
        yield f"euler-karras-{steps}", {**EULER, "use_karras_sigmas": True}, {"steps": steps}
        yield f"dpmpp-karras-{steps}", {**DPM, "use_karras_sigmas": True}, {"steps": steps}
    limits = {"sigma_min": 0.05, "sigma_max": 10.0}
    yield "euler-karras-limits", {**EULER, **limits, "use_karras_sigmas": True}, {"steps": 6}
    yield "euler-exponential", {**EULER, "use_exponential_sigmas": True}, {"steps": 6}
    yield "euler-exponential-limits", {**EULER, **limits, "use_exponential_sigmas": True}, {"steps": 6}
    yield "euler-log-linear", {**EULER, "interpolation_type": "log_linear"}, {"steps": 6}
    yield "euler-log-linear-karras", {**EULER, "interpolation_type": "log_linear", "use_karras_sigmas": True}, {"steps": 6}
    yield "euler-v", {**SDXL, "prediction_type": "v_prediction"}, {"steps": 6}
    yield "euler-sample", {**EULER, "prediction_type": "sample"}, {"steps": 6}
    yield "euler-sigma-min", {**EULER, "final_sigmas_type": "sigma_min"}, {"steps": 6}
    continuous = {"timestep_type": "continuous", "prediction_type": "v_prediction", "use_karras_sigmas": True}
    yield "euler-continuous", {**EULER, **continuous, "sigma_min": 0.002, "sigma_max": 700.0}, {"steps": 6}
    yield "ancestral-v", {**ANCESTRAL, "prediction_type": "v_prediction"}, {"steps": 6, "seeds": [9]}

    for algorithm in ("dpmsolver++", "sde-dpmsolver++", "dpmsolver", "sde-dpmsolver"):
        for order in (1, 2, 3):
            if algorithm == "sde-dpmsolver" and order == 3:
                continue
            for solver in ("midpoint", "heun") if order == 2 else ("midpoint",):
                config = {**DPM, "algorithm_type": algorithm, "solver_order": order, "solver_type": solver}
                if not algorithm.endswith("++"):
                    config["final_sigmas_type"] = "sigma_min"
                yield f"{algorithm}-{order}-{solver}", config, {"steps": 16, "seeds": [11]}
        config = {**DPM, "algorithm_type": algorithm, "final_sigmas_type": "sigma_min", "thresholding": True}
        for prediction in ("epsilon", "sample", "v_prediction"):
            prediction_config = {**config, "prediction_type": prediction}
            yield f"{algorithm}-threshold-{prediction}", prediction_config, {"steps": 5, "seeds": [12, 13]}
    yield "dpmpp-3-few", {**DPM, "solver_order": 3}, {"steps": 8}
    yield "dpmpp-3-full", {**DPM, "solver_order": 3, "lower_order_final": False, "final_sigmas_type": "sigma_min"}, {"steps": 8}
    yield "dpmpp-euler-final", {**DPM, "euler_at_final": True, "final_sigmas_type": "sigma_min"}, {"steps": 16}
    yield "dpmpp-exponential", {**DPM, "use_exponential_sigmas": True}, {"steps": 8}
    yield "dpmpp-lu", {**DPM, "use_lu_lambdas": True}, {"steps": 8}
    cosine = {"beta_schedule": "squaredcos_cap_v2", "lambda_min_clipped": -5.1}
    yield "dpmpp-cosine", {**DPM, **cosine}, {"steps": 8}
    yield "dpmpp-cosine-karras", {**DPM, **cosine, "use_karras_sigmas": True}, {"steps": 8, "begin": 0}
    yield "dpmpp-cosine-leading", {**DPM, **cosine, "timestep_spacing": "leading"}, {"steps": 8}
    yield "dpmpp-cosine-trailing", {**DPM, **cosine, "timestep_spacing": "trailing"}, {"steps": 8}

    for steps in (1, 4, 8, 50):
        yield f"lcm-{steps}", LCM, {"steps": steps, "seeds": [14]}
    yield "lcm-v-scaled", {**LCM, "prediction_type": "v_prediction", "timestep_scaling": 5.0}, {"steps": 4, "seeds": [15, 16]}
    yield "lcm-sample-clip", {**LCM, "prediction_type": "sample", "clip_sample": True}, {"steps": 4, "seeds": [15]}
    yield "lcm-threshold", {**LCM, "thresholding": True, "original_inference_steps": 100}, {"steps": 7, "seeds": [15]}

    # Another class from a published config, as when a user changes a pipeline's scheduler.
    for name, config in (("sd15", SD15), ("sd21", SD21), ("sdxl", SDXL), ("unipc", UNIPC)):
        for class_name in ("DDIM", "PNDM", "EulerDiscrete", "EulerAncestralDiscrete", "DPMSolverMultistep", "LCM"):
            options = {"steps": 6, "class_name": class_name + "Scheduler", "seeds": [17]}
            yield f"{name}-as-{class_name}", config, options
    limited = {**EULER, **limits, "use_karras_sigmas": True}
    yield "limits-as-DPMSolverMultistep", limited, {"steps": 6, "class_name": "DPMSolverMultistepScheduler"}

    # Image-to-image: from the middle of a run.
    yield "ddim-begin", SD21, {"steps": 20, "begin": 8}
    yield "pndm-begin", SD15, {"steps": 20, "begin": 8}
    yield "euler-begin", SDXL, {"steps": 20, "begin": 8}
    yield "ancestral-begin", ANCESTRAL, {"steps": 20, "begin": 8, "seeds": [18]}
    yield "dpmpp-begin", {**DPM, "use_karras_sigmas": True}, {"steps": 50, "begin": 47}
    yield "dpmpp-begin-3", {**DPM, "solver_order": 3}, {"steps": 20, "begin": 8}
    yield "lcm-begin", LCM, {"steps": 8, "begin": 3, "seeds": [19]}
    yield "dpmpp-middle", DPM, {"steps": 20, "middle": 8}
    yield "euler-middle", SDXL, {"steps": 20, "middle": 8}

    for dtype in ("bfloat16", "float16"):
        yield f"pndm-{dtype}", SD15, {"steps": 12, "dtype": dtype}
        yield f"ddim-{dtype}", ZERO_SNR, {"steps": 12, "dtype": dtype, "eta": 0.5, "seeds": [20]}
        yield f"euler-{dtype}", SDXL, {"steps": 12, "dtype": dtype}
        yield f"ancestral-{dtype}", ANCESTRAL, {"steps": 12, "dtype": dtype, "seeds": [21]}
        yield f"dpmpp-{dtype}", {**DPM, "use_karras_sigmas": True}, {"steps": 12, "dtype": dtype}
        yield f"lcm-{dtype}", LCM, {"steps": 4, "dtype": dtype, "seeds": [22]}
    yield "ddim-threshold-bfloat16", {**DDIM, "thresholding": True}, {"steps": 5, "dtype": "bfloat16"}


def solver_runs():
    """The same for the solvers of second and higher order, for TCD, and for beta sigmas."""
    beta, sigma_min = {"use_beta_sigmas": True}, {"final_sigmas_type": "sigma_min"}
    limits = {"sigma_min": 0.05, "sigma_max": 10.0}
    flow = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 3.0}
    schedules = ("karras", "exponential", "beta")
    predictions = ("epsilon", "sample", "v_prediction")

    for steps in (1, 2, 5, 20, 50):
        yield f"euler-beta-{steps}", {**EULER, **beta}, {"steps": steps}
        yield f"dpmpp-beta-{steps}", {**DPM, **beta}, {"steps": steps}
    yield "euler-beta-limits", {**EULER, **beta, **limits}, {"steps": 7}
    yield "euler-beta-sigma-min-v", {**SDXL, **beta, **sigma_min, "prediction_type": "v_prediction"}, {"steps": 7}
    yield "flow-match-beta", {**SD3, **beta}, {"steps": 7}
    for schedule in schedules:
        sigmas = {f"use_{schedule}_sigmas": True}
        for order in (2, 3):
            config = {**DPM, **sigmas, "algorithm_type": "sde-dpmsolver++", "solver_order": order}
            yield f"dpmpp-{order}m-sde-{schedule}", config, {"steps": 9, "seeds": [31]}
        config = {**DPM, **sigmas, "algorithm_type": "sde-dpmsolver++", "solver_type": "heun"}
        yield f"dpmpp-2m-sde-heun-{schedule}", config, {"steps": 16, "seeds": [31, 32]}
        for base in (HEUN, SDE, SINGLE, DEIS, UNIPC):
            name = base["_class_name"].removesuffix("Scheduler").lower()
            yield f"{name}-{schedule}", {**base, **sigmas}, {"steps": 7, "seeds": [33]}
            yield f"{name}-{schedule}-begin", {**base, **sigmas}, {"steps": 20, "begin": 8, "seeds": [33]}
    for base in (HEUN, SDE, DEIS, UNIPC):
        name = base["_class_name"].removesuffix("Scheduler").lower()
        for spacing in ("linspace", "leading", "trailing"):
            yield f"{name}-{spacing}", {**base, "timestep_spacing": spacing}, {"steps": 7, "seeds": [34]}
        yield f"{name}-trailing-61", {**base, "timestep_spacing": "trailing", "steps_offset": 0}, {"steps": 61, "seeds": [34]}
        yield f"{name}-cosine", {**base, "beta_schedule": "squaredcos_cap_v2"}, {"steps": 6, "seeds": [34]}
    for base in (HEUN, SDE, SINGLE, DEIS, UNIPC):
        name = base["_class_name"].removesuffix("Scheduler").lower()
        for steps in (1, 2, 3, 20, 50):
            yield f"{name}-{steps}", base, {"steps": steps, "seeds": [35]}
        yield f"{name}-middle", base, {"steps": 20, "middle": 8, "seeds": [36]}
        yield f"{name}-defaults", {"_class_name": base["_class_name"]}, {"steps": 6, "seeds": [36]}
        for dtype in ("bfloat16", "float16"):
            yield f"{name}-{dtype}", {**base, "use_karras_sigmas": True}, {"steps": 12, "dtype": dtype, "seeds": [37]}
        for given, config in (("sd15", SD15), ("sd21", SD21), ("sdxl", SDXL), ("limits", {**EULER, **limits})):
            options = {"steps": 6, "class_name": base["_class_name"], "seeds": [38]}
            yield f"{given}-as-{name}", config, options

    for prediction in ("sample", "v_prediction"):
        yield f"heun-{prediction}", {**HEUN, "prediction_type": prediction}, {"steps": 6}
    yield "heun-clip", {**HEUN, "clip_sample": True, "clip_sample_range": 0.8}, {"steps": 6}
    yield "heun-exp-betas", {**HEUN, "beta_schedule": "exp"}, {"steps": 6}
    yield "heun-limits", {**HEUN, **limits, "use_karras_sigmas": True}, {"steps": 6}
    yield "sde-v", {**SDE, "prediction_type": "v_prediction"}, {"steps": 6, "seeds": [39, 40]}
    yield "sde-begin", SDE, {"steps": 12, "begin": 10, "seeds": [39, 40]}

    for algorithm in ("dpmsolver++", "sde-dpmsolver++", "dpmsolver"):
        for order in (1, 2, 3):
            for solver in ("midpoint", "heun"):
                config = {**SINGLE, "algorithm_type": algorithm, "solver_order": order, "solver_type": solver, **sigma_min}
                yield f"single-{algorithm}-{order}-{solver}", config, {"steps": 12, "seeds": [41]}
        for prediction in predictions:
            config = {**SINGLE, "algorithm_type": algorithm, **sigma_min, "prediction_type": prediction}
            config["thresholding"] = algorithm.endswith("++")
            yield f"single-{algorithm}-{prediction}", config, {"steps": 5, "seeds": [42, 43]}
    for steps in (3, 4, 5, 6, 7, 8):
        for order in (2, 3):
            config = {**SINGLE, "solver_order": order, "lower_order_final": True, **sigma_min}
            yield f"single-lower-{order}-{steps}", config, {"steps": steps}
            yield f"single-zero-{order}-{steps}", {**SINGLE, "solver_order": order}, {"steps": steps}
    yield "single-begin-3", {**SINGLE, "solver_order": 3}, {"steps": 20, "begin": 8}
    cosine = {"beta_schedule": "squaredcos_cap_v2", "lambda_min_clipped": -5.1}
    yield "single-cosine", {**SINGLE, **cosine}, {"steps": 8}

    for order in (1, 2, 3):
        yield f"deis-{order}", {**DEIS, "solver_order": order}, {"steps": 16}
        yield f"deis-few-{order}", {**DEIS, "solver_order": order}, {"steps": 8}
        yield f"deis-full-{order}", {**DEIS, "solver_order": order, "lower_order_final": False}, {"steps": 8}
        yield f"deis-begin-{order}", {**DEIS, "solver_order": order}, {"steps": 20, "begin": 8}
    for prediction in predictions:
        yield f"deis-{prediction}", {**DEIS, "prediction_type": prediction, "thresholding": True}, {"steps": 5}

    for solver in ("bh1", "bh2"):
        for order in (1, 2, 3, 4):
            config = {**UNIPC, "solver_type": solver, "solver_order": order, **sigma_min}
            yield f"unipc-{solver}-{order}", config, {"steps": 16}
            noise = {"predict_x0": False, "lower_order_final": False}
            yield f"unipc-{solver}-{order}-noise", {**config, **noise}, {"steps": 8}
            yield f"unipc-{solver}-{order}-begin", config, {"steps": 20, "begin": 8}
    for order in (1, 2, 3):
        yield f"unipc-zero-{order}", {**UNIPC, "solver_order": order}, {"steps": 8}
        karras = {"solver_order": order, "use_karras_sigmas": True, **sigma_min}
        yield f"unipc-karras-sigma-min-{order}", {**UNIPC, **karras}, {"steps": 8}
    yield "unipc-uncorrected", {**UNIPC, "disable_corrector": [0, 1, 4]}, {"steps": 8}
    yield "unipc-zero-snr", {**UNIPC, "rescale_betas_zero_snr": True, "prediction_type": "v_prediction",
                             "timestep_spacing": "trailing"}, {"steps": 8}
    for prediction in predictions:
        yield f"unipc-{prediction}", {**UNIPC, "prediction_type": prediction, "thresholding": True}, {"steps": 5}
        config = {**UNIPC, "prediction_type": prediction, "predict_x0": False, **sigma_min}
        yield f"unipc-{prediction}-noise", config, {"steps": 5}

    for base in (DPM, SINGLE, DEIS, UNIPC):
        name = base["_class_name"].removesuffix("Scheduler").lower()
        for steps in (1, 5, 28):
            yield f"{name}-flow-{steps}", {**base, **flow}, {"steps": steps}
        yield f"{name}-flow-begin", {**base, **flow}, {"steps": 20, "begin": 8}
        yield f"{name}-flow-epsilon", {**base, **flow, "prediction_type": "epsilon"}, {"steps": 6}
    yield "dpmpp-sde-flow", {**DPM, **flow, "algorithm_type": "sde-dpmsolver++"}, {"steps": 9, "seeds": [44]}
    yield "unipc-flow-karras", {**UNIPC, **flow, "use_karras_sigmas": True}, {"steps": 7}
    yield "unipc-flow-terminal", {**UNIPC, **flow, "shift_terminal": 0.1}, {"steps": 7}
    yield "unipc-flow-sigma-min", {**UNIPC, **flow, **sigma_min}, {"steps": 7}

    for steps in (1, 4, 8, 50):
        yield f"tcd-{steps}", TCD, {"steps": steps, "eta": 0.0}
        yield f"tcd-eta-{steps}", TCD, {"steps": steps, "eta": 0.3, "seeds": [45]}
    yield "tcd-eta-whole", TCD, {"steps": 4, "eta": 1.0, "seeds": [45, 46]}
    for prediction in predictions:
        config = {**TCD, "prediction_type": prediction, "original_inference_steps": 100}
        yield f"tcd-{prediction}", config, {"steps": 7, "eta": 0.5, "seeds": [47]}
    yield "tcd-begin", TCD, {"steps": 8, "begin": 3, "eta": 0.3, "seeds": [48]}
    zero_snr = {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}
    yield "tcd-zero-snr", {**TCD, **zero_snr}, {"steps": 4, "eta": 0.3, "seeds": [49]}
    yield "sdxl-as-tcd", SDXL, {"steps": 4, "class_name": "TCDScheduler", "eta": 0.3, "seeds": [49]}
    for dtype in ("bfloat16", "float16"):
        yield f"tcd-{dtype}", TCD, {"steps": 4, "dtype": dtype, "eta": 0.3, "seeds": [50]}


def told_where_to_begin(runs):
    """Tells all schedulers the index of their first timestep, as pipelines do, except where the run is from the middle.

    A scheduler that is not told takes the second of two equal timesteps.
    """
    for name, config, options in runs:
        yield name, config, options if "middle" in options else {"begin": 0, **options}


def flow_runs():
    """The same for flow matching."""
    for steps in (1, 2, 5, 28, 1000):
        yield f"sd3-{steps}", SD3, {"steps": steps}
    yield "sd35", SD35, {"steps": 28}
    yield "defaults", {"_class_name": "FlowMatchEulerDiscreteScheduler"}, {"steps": 7}
    yield "trained", {**SD3, "num_train_timesteps": 250, "shift": 0.4}, {"steps": 7}
    yield "flux", FLUX, {"steps": 12, "mu": 0.9}
    yield "flux-sigmas", FLUX, {"steps": 4, "mu": 1.15, "sigmas": [1.0, 0.75, 0.5, 0.25]}
    yield "flux-linear", {**FLUX, "time_shift_type": "linear"}, {"steps": 12, "mu": 1.7}
    yield "flux-linear-sigmas", {**FLUX, "time_shift_type": "linear"}, {"steps": 3, "mu": 1.7, "sigmas": [0.9, 0.6, 0.1]}
    yield "ltx", LTX, {"steps": 9, "mu": 1.3}
    yield "ltx-sigmas", LTX, {"steps": 5, "mu": 1.3, "sigmas": [1.0, 0.8, 0.6, 0.4, 0.2]}
    yield "sd3-terminal", {**SD3, "shift_terminal": 0.05}, {"steps": 6}
    yield "sd3-mu", SD3, {"steps": 6, "mu": 0.9}
    yield "sd3-sigmas", SD3, {"steps": 3, "sigmas": [1.0, 0.7, 0.3]}
    yield "sd3-karras", {**SD3, "use_karras_sigmas": True}, {"steps": 7}
    yield "sd3-karras-limits", {**SD3, "use_karras_sigmas": True, "sigma_min": 0.02, "sigma_max": 0.9}, {"steps": 7}
    yield "sd3-karras-sigmas", {**SD3, "use_karras_sigmas": True}, {"steps": 3, "sigmas": [0.95, 0.7, 0.3]}
    yield "sd3-exponential", {**SD3, "use_exponential_sigmas": True}, {"steps": 7}
    yield "sd3-inverted", {**SD3, "invert_sigmas": True}, {"steps": 7}
    yield "sd3-stochastic", {**SD3, "stochastic_sampling": True}, {"steps": 7, "seeds": [23]}
    yield "sd3-stochastic-each", {**SD3, "stochastic_sampling": True}, {"steps": 7, "seeds": [23, 24]}
    yield "sd3-begin", SD3, {"steps": 20, "begin": 8}
    yield "sd3-middle", SD3, {"steps": 20, "middle": 8}
    for dtype in ("bfloat16", "float16"):
        yield f"sd3-{dtype}", SD3, {"steps": 12, "dtype": dtype}
        stochastic = {**SD3, "stochastic_sampling": True}
        yield f"sd3-stochastic-{dtype}", stochastic, {"steps": 6, "dtype": dtype, "seeds": [25]}


def model(x, t):
    return 0.7 * x * torch.cos(t / 100) + 0.1 * torch.sin(3 * x)


def make_generator(seeds):
    if not seeds:
        return None
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    return generators[0] if len(generators) == 1 else generators


class BrownianPath:
    """The noise sampler of DPMSolverSDEScheduler, from the call's generator in place of torchsde's tree.

    A step asks twice: for its first half, then for the whole. Both lie on one path of Brownian motion.
    """

    def __init__(self, sample, generator):
        self.sample, self.generator, self.half = sample, generator, None

    def __call__(self, sigma, sigma_next):
        draw = randn_tensor(self.sample.shape, generator=self.generator, dtype=self.sample.dtype)
        if self.half is None:
            path = draw * (sigma - sigma_next).sqrt()
            self.half = sigma_next, path
        else:
            path = self.half[1] + draw * (self.half[0] - sigma_next).sqrt()
            self.half = None
        return path / (sigma - sigma_next).sqrt()


def kept_steps(count):
    return sorted({round(i) for i in numpy.linspace(0, count - 1, min(count, MOST_KEPT))})


def run(config, options, sample, noise):
    """Gives what is written of the run: a dict for the JSON file, and tensors."""
    cls = getattr(diffusers, options.get("class_name", config["_class_name"]))
    scheduler = cls.from_config(config)
    whole_config = dict(scheduler.config)  # a run of the singlestep class changes it
    scheduler.set_timesteps(options["steps"], **{key: options[key] for key in ("mu", "sigmas") if key in options})
    dtype = getattr(torch, options.get("dtype", "float32"))
    sample, noise = sample.to(dtype), noise.to(dtype)
    generator = make_generator(options.get("seeds"))

    timesteps = scheduler.timesteps
    if cls in (diffusers.DDIMScheduler, diffusers.PNDMScheduler):
        assert timesteps.min() >= 0
    tensors = {"timesteps": timesteps}
    ones = torch.ones(len(timesteps), 1)
    tensors["levels"] = scheduler.add_noise(0 * ones, ones, timesteps).flatten()
    pair = timesteps[[0, len(timesteps) // 2]]
    tensors["noised"] = scheduler.add_noise(sample, noise, pair)

    x = noise * scheduler.init_noise_sigma
    if "begin" in options and hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(options["begin"])
    if begin := options.get("begin", options.get("middle", 0)):
        timesteps = timesteps[begin:]
        x = scheduler.add_noise(sample, noise, timesteps[:1].repeat(len(sample)))
    extra = {"eta": options["eta"]} if "eta" in options else {}
    if generator is not None and "generator" in inspect.signature(scheduler.step).parameters:
        extra["generator"] = generator
    if cls is diffusers.DPMSolverSDEScheduler:
        scheduler.noise_sampler = BrownianPath(noise, generator)

    samples, clean = [], None
    for t in timesteps:
        output = model(scheduler.scale_model_input(x, t), t)
        step = scheduler.step(output, t, x, **extra)
        x = step.prev_sample
        samples.append(x)
        if clean is None:
            clean = step.get("pred_original_sample", step.get("denoised"))
    assert torch.isfinite(x).all(), (config, options)
    kept = kept_steps(len(samples))
    tensors["samples"] = torch.stack([samples[i] for i in kept])
    if clean is not None:
        tensors["clean"] = clean
    facts = {"kept": kept, "init_noise_sigma": float(scheduler.init_noise_sigma), "config": whole_config}
    return facts, tensors


def as_json(value):
    """JSON has no infinities: they become texts. The names of defaults come from a set, in another order each time."""
    if isinstance(value, dict):
        return {key: sorted(item) if key == "_use_default_values" else as_json(item) for key, item in value.items()}
    if isinstance(value, float) and math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return value


# The calls that the other classes have.
FLOW_MATCH = diffusers.FlowMatchEulerDiscreteScheduler
FLOW_MATCH.init_noise_sigma = 1.0
FLOW_MATCH.scale_model_input = lambda self, sample, timestep: sample
FLOW_MATCH.add_noise = lambda self, samples, noise, timesteps: self.scale_noise(samples, timesteps, noise)

# Each run is of masked tokens: the mask is 40, above the codebook.
AMUSED_SHAPE = (2, 3, 4)
AMUSED_CODES = 12
AMUSED_RUNS = {
    "cosine": {"steps": 6},
    "linear": {"steps": 6, "given": {"masking_schedule": "linear"}},
    "one": {"steps": 1},
    "many": {"steps": 20, "temperature": [4.5, 1.0]},
    "number": {"steps": 5, "temperature": 3.0},
    "known": {"steps": 6, "known": [[0, 0, 1], [0, 2, 3], [1, 1, 1]]},
    "all-known": {"steps": 3, "known": "all"},
    "bfloat16": {"steps": 6, "dtype": "bfloat16"},
    "float16": {"steps": 6, "dtype": "float16"},
}


def amused_logits(logits, tokens, t):
    """A model that looks at what it is given and at the time, exactly alike in any language."""
    return logits.roll(t, 1) * (1 + tokens % 3).unsqueeze(1)


def amused_run(options, logits):
    scheduler = diffusers.AmusedScheduler.from_config({"mask_token_id": 40, **options.get("given", {})})
    scheduler.set_timesteps(options["steps"], **{k: options[k] for k in ("temperature",) if k in options})
    logits = logits.to(getattr(torch, options.get("dtype", "float32")))
    clean = torch.arange(24).reshape(AMUSED_SHAPE) % AMUSED_CODES
    tokens = torch.full(AMUSED_SHAPE, 40)
    if options.get("known") == "all":
        tokens = clean.clone()
    else:
        for place in options.get("known", []):
            tokens[tuple(place)] = clean[tuple(place)]

    generator = torch.Generator().manual_seed(options["steps"])
    first = scheduler.timesteps[0]
    made = {"timesteps": scheduler.timesteps, "noised": scheduler.add_noise(clean, first, generator)}
    samples, predicted = [], []
    for t in scheduler.timesteps:
        output = amused_logits(logits, tokens, int(t))
        step = scheduler.step(output, t, tokens, generator=generator)
        tokens = step.prev_sample
        samples.append(tokens)
        predicted.append(step.pred_original_sample)
    return {**made, "samples": torch.stack(samples), "predicted": torch.stack(predicted)}


def make_amused():
    logits = 2 * torch.randn((2, AMUSED_CODES, 3, 4), generator=torch.Generator().manual_seed(1))
    tensors = {"logits": logits}
    for name, options in AMUSED_RUNS.items():
        tensors.update({f"{name}/{key}": value.contiguous() for key, value in amused_run(options, logits).items()})
    save_file(tensors, OUT / "amused.safetensors")
    (OUT / "amused.json").write_text(json.dumps(AMUSED_RUNS, indent=1) + "\n")


def make_runs(stem, runs, **more):
    """Writes the runs, and whatever else goes with them."""
    torch.manual_seed(0)
    inputs = {"sample": 0.8 * torch.randn(SHAPE), "noise": torch.randn(SHAPE)}
    tensors, listed = {**inputs, **more}, []
    for name, config, options in runs:
        facts, made = run(config, options, **inputs)
        listed.append({"name": name, "given": config, **options, **facts})
        tensors.update({f"{name}/{key}": tensor.contiguous() for key, tensor in made.items()})
    save_file(tensors, OUT / f"{stem}.safetensors")
    lines = ",\n".join(json.dumps(as_json(item), sort_keys=True) for item in listed)
    (OUT / f"{stem}.json").write_text("[\n" + lines + "\n]\n")


def numbers():
    """What the runs rest on: torch's random numbers and numpy's logarithm."""
    random = {"one": torch.randn((2, 3), generator=torch.Generator().manual_seed(2**40 + 7)),
              "long": torch.randn((2, 20), generator=torch.Generator().manual_seed(7))}
    half = torch.randn((2, 20), generator=torch.Generator().manual_seed(7), dtype=torch.bfloat16)
    levels = numpy.exp(numpy.linspace(-7, 9, 500)).astype(numpy.float32)
    return {**{f"random/{key}": tensor for key, tensor in random.items()}, "random/bfloat16": half,
            "log/x": torch.from_numpy(levels), "log/y": torch.from_numpy(numpy.log(levels))}


def main():
    assert diffusers.__version__ == "0.42.1", diffusers.__version__
    OUT.mkdir(parents=True, exist_ok=True)
    make_runs("runs", runs(), **numbers())
    make_runs("solver_runs", told_where_to_begin(solver_runs()))
    make_runs("flow_match_runs", flow_runs())
    make_amused()


if __name__ == "__main__":
    main()
