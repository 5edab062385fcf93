#!/bin/bash
# Draws the same prompts and seed without and with each LoRA of the embedded model, at two weights, as one labelled grid.
set -euo pipefail
cd "$(dirname "$0")/.."
loras=none
for name in ink pixel blueprint neon; do
  for weight in 0.5 1; do loras+=", models/loras/$name.safetensors:$weight"; done
done
build/lora grid models/tiny --x "lora: $loras" \
  --y "prompt: red apple | a cute penguin | rocket | octopus | sunflower" \
  --steps 20 --cfg 4 --seed 0 -o build/demo.png >/dev/null
echo "Done: open build/demo.png. Each row is a prompt, and each column a LoRA at a weight."
