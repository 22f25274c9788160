#!/usr/bin/env bash
# Train Human Gaussian Graph: bash train.sh [PRESET] [arguments of main.py]
#
# With MVHumanNet at ./mvhuman_24 (or a link to it, see README.md): presets tiny, small, big; default small.
# Without it: the preset demo, on synthetic captures that are generated once in ./synthetic. On a GPU also the presets of the
# shipped checkpoint: demo-gpu, whose captures are generated in ./benchmark, then demo-gpu-512.
# --help lists all options.
# Runs on all visible GPUs (1, 2, 4 or 8; select with CUDA_VISIBLE_DEVICES), else on the CPU.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

source scripts/setup.sh

preset=""
if [ $# -gt 0 ] && [[ "$1" != -* ]]; then
    preset="$1"
    shift
fi

for argument in "$@"; do
    case "$argument" in
        -h | --help) exec "$PYTHON" main.py ${preset:+"$preset"} "$@" ;;
    esac
done

if [ -z "$preset" ]; then
    if [ -d mvhuman_24 ]; then
        preset=small
    else
        preset=demo
        echo "no ./mvhuman_24 (see README.md, Data): training on synthetic captures"
    fi
fi
has_root=false
for argument in "$@"; do
    case "$argument" in --data.root*) has_root=true ;; esac
done
gpus="$("$PYTHON" -c 'import torch; print(torch.cuda.device_count())')"
# The list of subjects is written last, so that an interrupted generation resumes.
case "$has_root $preset" in
    "false demo")
        if [ ! -f synthetic/human.json ]; then
            echo "generating synthetic captures in ./synthetic first, about a minute"
            "$PYTHON" scripts/make_synthetic.py --out synthetic --subjects 26 --poses 6 --cameras 12 --width 306 --height 256
        fi
        ;;
    "false demo-gpu"*)
        if [ ! -f benchmark/crops/val/human.json ]; then
            if [ "$gpus" -eq 0 ]; then
                echo "error: preset $preset is for a GPU, and PyTorch finds none; its captures would take hours to generate. See the preset demo." >&2
                exit 2
            fi
            echo "generating the benchmark's captures in ./benchmark first, some minutes on a GPU"
            "$PYTHON" scripts/make_benchmark.py
            for split in train val; do
                "$PYTHON" scripts/prepare_data.py --root "benchmark/$split" --out "benchmark/crops/$split" --crop person --size 256 --no-verify
            done
        fi
        ;;
esac

for count in 8 4 2; do
    if [ "$gpus" -ge "$count" ]; then
        echo "preset $preset, configs/gpu$count.yaml"
        exec "$PYTHON" scripts/launch.py --config_file "configs/gpu$count.yaml" main.py "$preset" "$@"
    fi
done
# One process needs no launcher; configs/gpu1.yaml and cpu.yaml exist for `accelerate launch`.
echo "preset $preset, one process"
exec "$PYTHON" main.py "$preset" "$@"
