#!/bin/bash
# Draws the same prompts and seed without and with each LoRA of the embedded model, at several weights, as one labelled grid.
set -euo pipefail
cd "$(dirname "$0")/.."
picture=build/demo.png
echo "The picture will be $picture: each row one prompt and one seed, each column a LoRA at a weight."

prompts=("red apple" "a cute penguin" "rocket" "octopus" "sunflower")
columns=(none ink:0.5 ink:1 pixel:0.5 pixel:1 blueprint:0.5 blueprint:1 neon:0.5 neon:1)
parts=$(mktemp -d)
trap 'rm -rf "$parts"' EXIT

cell() {  # PNG on $1, twice the size, as PNM on $2
  pngtopnm "$1" | pamenlarge 2 | pnmpad -white -left 2 -right 2 -top 2 -bottom 2 >"$2"
}

label() {  # text $1, centred in a cell of width $2 and height $3, as PNM on $4
  pbmtext -builtin fixed "$1" | pnmcrop -white 2>/dev/null |
    pnmpad -white -width "$2" -height "$3" -halign 0.5 -valign 0.5 2>/dev/null | pgmtoppm black-white >"$4"
}

header=("$parts/corner.pnm")
label "lora.cpp" 110 24 "$parts/corner.pnm"
for column in "${columns[@]}"; do
  name=${column/:/ x }
  label "${name/none/without LoRA}" 132 24 "$parts/$column.pnm"
  header+=("$parts/$column.pnm")
done
pnmcat -lr "${header[@]}" >"$parts/grid.pnm"

for prompt in "${prompts[@]}"; do
  label "$prompt" 110 132 "$parts/row.pnm"
  row=("$parts/row.pnm")
  for column in "${columns[@]}"; do
    lora=()
    [ "$column" = none ] || lora=(--lora "models/loras/${column/:/.safetensors:}")
    build/lora generate models/tiny -p "$prompt" --steps 20 --cfg 4 --seed 0 "${lora[@]}" -o "$parts/one.png" >"$parts/log"
    cell "$parts/one.png" "$parts/$prompt $column.pnm"
    row+=("$parts/$prompt $column.pnm")
    printf '.'
  done
  pnmcat -lr "${row[@]}" >"$parts/line.pnm"
  pnmcat -tb "$parts/grid.pnm" "$parts/line.pnm" >"$parts/next.pnm"
  mv "$parts/next.pnm" "$parts/grid.pnm"
  echo " $prompt"
done
pnmtopng -compression 9 "$parts/grid.pnm" >"$picture" 2>/dev/null
echo "Done: open $picture"
