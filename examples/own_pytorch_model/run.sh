#!/bin/sh
# From one's own PyTorch model to certificates. Usage: sh run.sh [FOLDER]
set -eu
out=${1:-runs/own_pytorch_model}
here=$(cd "$(dirname "$0")" && pwd)
export PYTHONPATH="$here${PYTHONPATH:+:$PYTHONPATH}"

echo "== way 1: rrise trains the network"
rrise train --network my_model:build --options '{"width": 32}' --epochs 5 --out "$out/trained_by_rrise"

echo "== way 2: the weights exist"
python "$here/my_training.py" "$out"
python "$here/adopt.py" "$out/my_weights.pt" "$out/my_images.npy" "$out/classifier"

echo "== from here on both ways are the same"
rrise sample --classifier "$out/classifier" --split train --n 200 --out "$out/counts/train"
rrise sample --classifier "$out/classifier" --split profile --n 200 --out "$out/counts/profile"
rrise sample --classifier "$out/classifier" --split calibration --n 2000 --out "$out/counts/calibration"
rrise fit --classifier "$out/classifier" --counts "$out/counts/train" --out "$out/surrogate" --lr 0.01 --epochs 50
rrise export --surrogate "$out/surrogate" --out "$out/engine"

echo "== other splits hold images that the model was trained on: refused"
if rrise calibrate --engine "$out/engine" --counts "$out/counts/calibration" --out "$out/wrong" --data.seed 1; then
    exit 1
fi

rrise calibrate --engine "$out/engine" --counts "$out/counts/calibration" --profile "$out/counts/profile" --out "$out/bundles"
rrise certify "$out/bundles/scaled" "$out/new_images.npy"
