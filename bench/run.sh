#!/bin/bash
# Measures lora.cpp and diffusers in turns on the same models, and downloads beside huggingface_hub's. Leaves
# build/bench.json and prints the table.
#   THREADS=2 RUNS=5 ROUNDS=3 bench/run.sh
set -euo pipefail
cd "$(dirname "$0")/.."
python=build/venv/bin/python
cache=build/bench
threads=${THREADS:-$(nproc)}
runs=${RUNS:-3}
export OMP_NUM_THREADS=$threads MKL_NUM_THREADS=$threads

echo "models and LoRAs of full size, random weights, in $cache"
"$python" bench/make_models.py "$cache" --dtypes float16 bfloat16 --sdxl
mkdir -p "$cache"
# The same numbers in 228 MB under kohya's names, for the tools on files.
kohya=$cache/loras/sdxl-kohya.safetensors
[ -f "$kohya" ] || build/lora convert "$cache/loras/sdxl-0.safetensors" --to kohya --dtype float32 -o "$kohya"
rm -f "$cache"/ours.jsonl "$cache"/reference.jsonl
# In turns, and the best of them: a machine that others use as well is not equally fast all the time.
for ((round = 1; round <= ${ROUNDS:-2}; ++round)); do
  echo "lora.cpp, round $round"
  # To the end of a picture of one step: more than the first step alone, which is what the reference is timed to.
  "$python" bench/start_cost.py -n "$runs" --name start -- build/lora generate models/tiny -p "red apple" --steps 1 --cfg 4 \
    --seed 0 --dtype float32 -o "$cache/start.png" | tee -a "$cache/ours.jsonl"
  build/release/bench/lora_bench "$cache" --threads "$threads" --runs "$runs" | tee -a "$cache/ours.jsonl"
  echo "diffusers, round $round"
  "$python" bench/reference.py "$cache" --threads "$threads" --runs "$runs" | tee -a "$cache/reference.jsonl"
done
echo "downloads"
"$python" bench/hub.py --lora build/lora --call build/release/bench/hub_call -n "$((runs > 3 ? runs : 3))" \
  --ours "$cache/ours.jsonl" --reference "$cache/reference.jsonl"
"$python" bench/full_size.py "$cache" build/lora
"$python" bench/report.py "$cache/ours.jsonl" "$cache/reference.jsonl" build/bench.json
