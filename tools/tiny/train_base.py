#!/usr/bin/env python3
"""Trains the UNet2DConditionModel and the CLIPTextModel together, from scratch, on OUT/vae's latents of the flat style.
Resumes from CKPT/base.pt by itself, and leaves a whole StableDiffusionPipeline folder in OUT at every save.

    python train_base.py --data data --ckpt ckpt --out model --steps 20000
"""
import argparse, json, os, random, shutil
import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer
import common as c
from dataset import BACKGROUNDS, STYLES, Data, caption, over

PROMPTS = ["red apple", "cat face", "rocket", "pizza", "octopus", "automobile", "cactus", "guitar", "ghost", "sunflower", "penguin", "birthday cake",
           "butterfly on a blue background", "strawberry on a yellow background", "a drawing of a fox", "turtle, slow, animal"]


def scheduler():
    return DDIMScheduler(num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type="v_prediction",
                         rescale_betas_zero_snr=True, timestep_spacing="trailing", clip_sample=False, set_alpha_to_one=True,
                         steps_offset=1)  # unused with trailing timesteps; the pipeline warns at 0


def build(a, vocabulary, latent):
    n = len(a.channels)
    unet = UNet2DConditionModel(sample_size=a.latent_size, in_channels=latent, out_channels=latent, block_out_channels=a.channels, layers_per_block=a.layers,
                                down_block_types=["CrossAttnDownBlock2D"] * n, up_block_types=["CrossAttnUpBlock2D"] * n, mid_block_type="UNetMidBlock2DCrossAttn",
                                cross_attention_dim=a.text_dim, attention_head_dim=a.heads, norm_num_groups=16)
    torch.nn.init.zeros_(unet.conv_out.weight); torch.nn.init.zeros_(unet.conv_out.bias)
    for m in unet.modules():  # every branch starts as nothing
        if type(m).__name__ == "ResnetBlock2D": torch.nn.init.zeros_(m.conv2.weight)
        if type(m).__name__ == "Transformer2DModel": torch.nn.init.zeros_(m.proj_out.weight)
    text = CLIPTextModel(CLIPTextConfig(vocab_size=vocabulary, hidden_size=a.text_dim, intermediate_size=4 * a.text_dim, projection_dim=a.text_dim,
                                        num_hidden_layers=a.text_layers, num_attention_heads=4, max_position_embeddings=a.max_length,
                                        bos_token_id=vocabulary - 2, eos_token_id=vocabulary - 1, pad_token_id=vocabulary - 1))
    return unet, text


@torch.no_grad()
def latents(vae, pictures, dev, n=64):
    return torch.cat([vae.encode(c.to_tensor(pictures[i:i + n]).to(dev)).latent_dist.mean for i in range(0, len(pictures), n)]) * vae.config.scaling_factor


def tokens(tokenizer, texts, dev):
    return tokenizer(texts, padding="max_length", max_length=tokenizer.model_max_length, truncation=True, return_tensors="pt").input_ids.to(dev)


def captions(tokenizer, items, grounds, rng, dev, variants=24):
    """Token ids [ground, picture, variant, position], drawn once, so that a step looks them up on the device."""
    texts = [caption(it, rng, g) for g in grounds for it in items for _ in range(variants)]
    ids = torch.cat([tokens(tokenizer, texts[i:i + 20000], "cpu") for i in range(0, len(texts), 20000)])
    return ids.view(len(grounds), len(items), variants, -1).to(dev), tokens(tokenizer, [""], dev)[0]


def draw(n, bank, ids, empty, ground, drop):
    """A batch: latents and token ids, all on the bank's device."""
    dev = bank.device; rand = lambda k: torch.randint(k, (n,), device=dev); on = torch.zeros(n, dtype=torch.long, device=dev)
    if len(bank) > 1 and ground: on = torch.where(torch.rand(n, device=dev) < ground, 1 + rand(len(bank) - 1), on)
    pick = rand(bank.shape[1]); t = ids[on, pick, rand(ids.shape[2])]
    return bank[on, pick], torch.where(torch.rand(n, 1, device=dev) < drop, empty, t)


def diffusion_loss(unet, text, sched, x, ids):
    """MSE of v at random timesteps."""
    t = torch.randint(0, sched.config.num_train_timesteps, (len(x),), device=x.device); noise = torch.randn_like(x)
    v = unet(sched.add_noise(x, noise, t), t, text(ids)[0]).sample
    return F.mse_loss(v.float(), sched.get_velocity(x, noise, t))


def pipeline(vae, unet, text, tokenizer):
    return StableDiffusionPipeline(vae=vae, text_encoder=text, tokenizer=tokenizer, unet=unet, scheduler=scheduler(), safety_checker=None, feature_extractor=None,
                                   requires_safety_checker=False)


def images(pipe, prompts, steps=20, guidance=4.0, seed=0, **kw):
    gen = [torch.Generator("cpu").manual_seed(seed + i) for i in range(len(prompts))]; pipe.set_progress_bar_config(disable=True)
    return [np.asarray(im) for im in pipe(list(prompts), num_inference_steps=steps, guidance_scale=guidance, generator=gen, output_type="pil", **kw).images]


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--data", default="data"); p.add_argument("--ckpt", default="ckpt"); p.add_argument("--out", default="model")
    p.add_argument("--channels", type=int, nargs="+", default=[64, 128, 192]); p.add_argument("--layers", type=int, default=1); p.add_argument("--heads", type=int, default=4)
    p.add_argument("--text-dim", type=int, default=128); p.add_argument("--text-layers", type=int, default=3); p.add_argument("--max-length", type=int, default=32)
    p.add_argument("--names", default=None, help="a text file with the names to keep"); p.add_argument("--limit", type=int, default=None)
    p.add_argument("--init", default=None, help="a checkpoint whose averaged weights to start from"); p.add_argument("--ema", type=float, default=0.9995)
    p.add_argument("--batch", type=int, default=32); p.add_argument("--steps", type=int, default=20000); p.add_argument("--lr", type=float, default=8e-4)
    p.add_argument("--drop", type=float, default=0.1); p.add_argument("--ground", type=float, default=0.2, help="share of pictures on a coloured ground")
    p.add_argument("--minutes", type=float, default=0); p.add_argument("--save-every", type=int, default=500); p.add_argument("--name", default="base")
    p.add_argument("--device", default="auto"); p.add_argument("--no-amp", action="store_true"); p.add_argument("--compile", action="store_true"); p.add_argument("--seed", type=int, default=0)
    a = p.parse_args(); dev = c.device(a.device); torch.manual_seed(a.seed)
    shutil.copytree(os.path.join(a.data, "tokenizer"), os.path.join(a.out, "tokenizer"), dirs_exist_ok=True)
    cfg = os.path.join(a.out, "tokenizer", "tokenizer_config.json"); j = json.load(open(cfg)); j["model_max_length"] = a.max_length; json.dump(j, open(cfg, "w"), indent=2)
    tokenizer = CLIPTokenizer.from_pretrained(os.path.join(a.out, "tokenizer")); vae = AutoencoderKL.from_pretrained(os.path.join(a.out, "vae")).to(dev).eval().requires_grad_(False)
    d = Data(a.data, a.names, a.limit, ("flat",)); grounds = [None] + [g for g in BACKGROUNDS if g != "white"]
    bank_path = os.path.join(a.ckpt, f"{a.name}-latents.pt")
    stamp = [a.names, a.limit, vae.quant_conv.weight.double().sum().item()]
    if os.path.exists(bank_path) and (b := c.load_checkpoint(bank_path))["stamp"] == stamp: bank = b["bank"]
    else:
        bank = torch.stack([latents(vae, over(d.images["flat"], BACKGROUNDS[g or "white"]), dev) for g in grounds]).cpu(); torch.save(dict(stamp=stamp, bank=bank), bank_path)
    bank = bank.to(dev); a.latent_size = bank.shape[-1]
    unet, text = build(a, len(tokenizer), bank.shape[2]); unet.to(dev, memory_format=c.layout(dev)); text.to(dev); c.eager_attention(dev, unet, text)
    params = list(unet.parameters()) + list(text.parameters())
    opt = torch.optim.AdamW(params, a.lr, betas=(0.9, 0.99), weight_decay=1e-4); both = torch.nn.ModuleDict(dict(unet=unet, text=text)); step = 0
    path = os.path.join(a.ckpt, a.name + ".pt")
    if a.init and not os.path.exists(path): both.load_state_dict(c.load_checkpoint(a.init)["ema"])
    ema = c.Ema(both, a.ema)
    if s := c.load_checkpoint(path):
        both.load_state_dict(s["model"]); opt.load_state_dict(s["opt"]); ema.load(both, s["ema"]); step = s["step"]
    ids, empty = captions(tokenizer, d.items, grounds, random.Random(a.seed + step), dev)
    sched = scheduler(); sched.alphas_cumprod = sched.alphas_cumprod.to(dev); torch.manual_seed(a.seed + step); clock = c.Clock(a.minutes)
    print(f"unet {sum(q.numel() for q in unet.parameters()) / 1e6:.2f}M, text {sum(q.numel() for q in text.parameters()) / 1e6:.2f}M parameters, {len(d)} pictures, {dev}, from step {step}", flush=True)
    print(f"latents mean {bank.mean().item():.3f} deviation {bank.std().item():.3f}", flush=True)
    forward = torch.compile(diffusion_loss) if a.compile else diffusion_loss; total = 0.0

    def finish():
        c.save_checkpoint(path, model=both.state_dict(), opt=opt.state_dict(), ema=ema.shadow, step=step)
        with ema.applied(both), torch.no_grad():
            pipe = pipeline(vae, unet.eval(), text.eval(), tokenizer); pipe.save_config(a.out)  # the vae and the tokenizer are there already
            for part in ("unet", "text_encoder", "scheduler"): getattr(pipe, part).save_pretrained(os.path.join(a.out, part))
            im = images(pipe, PROMPTS); c.grid([im[:8], im[8:]], os.path.join(a.ckpt, a.name + ".png")); unet.train(); text.train()

    while step < a.steps and not clock.over():
        for g in opt.param_groups: g["lr"] = c.cosine(step, a.steps, a.lr)
        x, t = draw(a.batch, bank, ids, empty, a.ground, a.drop)
        with c.autocast(dev, not a.no_amp): loss = forward(unet, text, sched, x, t)
        opt.zero_grad(set_to_none=True); loss.backward(); torch.nn.utils.clip_grad_norm_(params, 1.0); opt.step(); ema.update(step)
        step += 1; clock.tick()
        if dev.type == "cpu" or step % 20 == 0: total += loss.item() * (1 if dev.type == "cpu" else 20)
        if step % 100 == 0: print(f"step {step}/{a.steps} loss {total / 100:.4f} {clock.per_step():.3f} s/step", flush=True); total = 0.0
        if step % a.save_every == 0: finish()
    finish()


if __name__ == "__main__": main()
