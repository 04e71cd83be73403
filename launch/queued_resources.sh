#!/usr/bin/env bash
# Runs a command of t5patches on a Cloud TPU, which is asked for if it is not there:
# train, cache, generate, infer and eval on all of its hosts, others on the first. Typed again,
# it takes the TPU that is there, or asks for another where that was preempted, and the
# command goes on from its last checkpoint.
#
#   export PROJECT=my-project ZONE=us-west4-a
#   launch/queued_resources.sh my-tpu v5litepod-64 train --gin_file=…
#
# RUNTIME (v2-alpha-tpuv5-lite) is the TPU's software, EXTRA more flags of
# `gcloud … queued-resources create`, such as --spot.
set -eu

if [ $# -lt 3 ]; then
  echo "usage: PROJECT=… ZONE=… $0 NAME ACCELERATOR_TYPE COMMAND [FLAG…]" >&2
  exit 2
fi
name=$1 type=$2
shift 2
: "${PROJECT:?a project of Google Cloud}" "${ZONE:?a zone with such TPUs}"
runtime=${RUNTIME:-v2-alpha-tpuv5-lite}
read -r -a extra <<< "${EXTRA:-}"
root=$(cd "$(dirname "$0")/.." && pwd)
where=("--project=$PROJECT" "--zone=$ZONE")

queued() {
  local verb=$1
  shift
  gcloud compute tpus queued-resources "$verb" "$name" "${where[@]}" "$@"
}
on() {
  gcloud compute tpus tpu-vm ssh "$name" "${where[@]}" --worker="$1" --command="$2"
}

while true; do
  state=$(queued describe --format='value(state.state)' 2> /dev/null || echo NONE)
  echo "$name: $state" >&2
  case $state in
    ACTIVE) break ;;
    NONE)
      queued create --node-id="$name" --accelerator-type="$type" \
        --runtime-version="$runtime" "${extra[@]}"
      ;;
    FAILED | SUSPENDED) queued delete --force --quiet ;;
  esac
  sleep "${POLL_SECONDS:-60}"
done

# What git knows of this folder, changes that are not committed with it.
archive=$(mktemp)
trap 'rm -f "$archive"' EXIT
git -C "$root" ls-files -z |
  tar --create --gzip --file="$archive" --directory="$root" --null --files-from=-
gcloud compute tpus tpu-vm scp "$archive" "$name:t5patches.tar.gz" "${where[@]}" \
  --worker=all
# The hosts' own Python is older than 3.11.
on all 'set -eu
  mkdir -p t5patches && tar --extract --gzip --file=t5patches.tar.gz --directory=t5patches
  cd t5patches
  python3 -m pip install --quiet --user uv
  test -d .venv || python3 -m uv venv --quiet --python=3.11 .venv
  python3 -m uv pip install --quiet --python=.venv/bin/python --no-deps \
    --requirement=requirements.lock
  python3 -m uv pip install --quiet --python=.venv/bin/python \
    --constraint=requirements.lock ".[tpu]"'

workers=all
case $1 in
  train) set -- "$@" --multiprocess_gpu --stopped_status=75 ;;
  cache | generate | infer | eval) set -- "$@" --multiprocess_gpu ;;
  *) workers=0 ;;
esac
on "$workers" "t5patches/.venv/bin/t5patches $(printf '%q ' "$@")"
