#!/bin/sh
# From an ONNX file to certificates. Usage: sh run.sh [FOLDER]
set -eu
out=${1:-runs/onnx_base_classifier}
here=$(cd "$(dirname "$0")" && pwd)
python "$here/make_base.py" "$out"
base=$out/base.onnx

rrise sample --classifier "$base" --split train --n 200 --out "$out/counts/train"
rrise sample --classifier "$base" --split profile --n 200 --out "$out/counts/profile"
rrise sample --classifier "$base" --split calibration --n 2000 --out "$out/counts/calibration"

# There are no weights to start from: the surrogate is a network of its own, here a ConvMixer.
surrogate() {
    rrise fit --classifier "$base" --counts "$out/counts/train" --out "$out/surrogate" \
        --strategy scratch --network timm.models.convmixer:ConvMixer \
        --options '{"dim": 48, "depth": 4, "kernel_size": 3, "patch_size": 2}' \
        --lr 0.003 --weight-decay 0.1 --epochs 60 --folds 0 "$@"
}
echo "== an ONNX file does not know what trained it; silence is refused"
if surrogate; then
    exit 1
fi
surrogate --trained-on "$out/trained_on.npy"

rrise export --surrogate "$out/surrogate" --out "$out/engine"
rrise calibrate --engine "$out/engine" --counts "$out/counts/calibration" --profile "$out/counts/profile" --out "$out/bundles"
rrise evaluate --bundles "$out/bundles" --classifier "$base" --trained-on "$out/trained_on.npy" --counts "$out/counts" \
    --out "$out/evaluation" --sample.n 200 --n-reference 500 --latency-images 3
rrise certify "$out/bundles/scaled" "$out/new_images.npy"
