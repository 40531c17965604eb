#!/bin/bash
# docs/clusters/hf-job.sh my-org/evomerge [OPTIONS of `hf jobs run`]
#
# A search on one machine of Hugging Face Jobs, which is billed by the minute; not run here, --dry-run shows the job. The bucket,
# mounted and not copied, holds the wheel of evomerge (pip wheel --no-deps .), search.yaml, its tasks and the run: the next
# attempt goes on after a fault. Models of the hub are read with your token.
set -eu

BUCKET=${1:?usage: hf-job.sh ORG/BUCKET [OPTIONS]}
shift
exec hf jobs run --flavor "${FLAVOR:-a100-large}" --timeout "${TIMEOUT:-12h}" --attempts 3 --name evomerge \
    --secrets HF_TOKEN --volume "hf://buckets/$BUCKET:/shared" "$@" \
    pytorch/pytorch:2.8.0-cuda12.8-cudnn9-runtime \
    bash -c 'pip install /shared/evomerge-*.whl && evomerge search /shared/search.yaml --resume'
