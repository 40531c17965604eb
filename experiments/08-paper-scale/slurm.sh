#!/bin/bash
# sbatch --nodes=1 experiments/08-paper-scale/slurm.sh experiments/08-paper-scale/mergebench-llama.yaml
#
# A search of this folder on the GPUs of Slurm's nodes; from the root of a checkout on a folder that all nodes share. Models and
# data must be in the cache by then, since compute nodes often lack the internet: `slurm.sh --download` on a login node.
#SBATCH --job-name=evomerge-paper
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
set -eu

export HF_HOME=${HF_HOME:-$PWD/hub}
if [ "${1:-}" = --download ]; then
    for model in \
        meta-llama/Llama-3.2-3B MergeBench/Llama-3.2-3B_{instruction,math,coding,safety,multilingual} \
        google/gemma-2-2b MergeBench/gemma-2-2b_{instruction,math,coding,safety,multilingual} \
        mistralai/Mistral-7B-v0.1 augmxnt/shisa-gamma-7b-v1 WizardLMTeam/WizardMath-7B-V1.1 GAIR/Abel-7B-002; do
        hf download "$model" --include '*.safetensors' '*.json' '*.model' '*.jinja'
    done
    for file in experiments/08-paper-scale/*.yaml; do
        evomerge check "$file"      # loads the tasks' data into the cache, too
    done
    exit
fi
FILE=${1:?usage: sbatch --nodes=N slurm.sh SEARCH_FILE}
export HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1
exec bash docs/clusters/slurm.sh "$FILE"
