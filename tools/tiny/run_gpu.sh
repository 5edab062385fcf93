#!/bin/sh
# A larger model, not trained yet, an estimated 20 to 30 minutes on one data centre GPU: 128x128 pictures, f=8 latents of 16x16x4, all names.
# Each call stops after MINUTES and goes on where it was when it is made again.
#   python dataset.py ... --size 128 --out data128    (done before, anywhere)
#   PY=python3 DATA=data128 STAGE=vae|base|loras sh run_gpu.sh
set -e
here=$(cd "$(dirname "$0")" && pwd); : "${PY:=python3}" "${DATA:=data128}" "${CKPT:=ckpt128}" "${OUT:=model128}" "${LORAS:=loras128}" "${MINUTES:=9}"; mkdir -p "$CKPT" "$LORAS"
case "${STAGE:?vae, base or loras}" in
vae) $PY "$here/train_vae.py" --data "$DATA" --ckpt "$CKPT" --out "$OUT" --size 128 --channels 32 64 96 128 --groups 16 --batch 64 --steps "${STEPS:-6000}" --save-every 2000 --minutes "$MINUTES" ;;
base) $PY "$here/train_base.py" --data "$DATA" --ckpt "$CKPT" --out "$OUT" --channels 64 112 160 --text-layers 3 --batch 384 --steps "${STEPS:-16000}" --lr 1e-3 --ema 0.999 --save-every 2000 --minutes "$MINUTES" ;;
loras) for s in ink pixel blueprint neon; do $PY "$here/train_lora.py" --data "$DATA" --model "$OUT" --out "$LORAS" --style $s --steps 1500 --batch 128 --minutes 2; done
    $PY "$here/export.py" --model "$OUT" --out "$OUT-fp16" ;;
esac
