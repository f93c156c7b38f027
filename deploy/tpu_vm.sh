#!/usr/bin/env bash
# Trains on all hosts of a Cloud TPU slice that is running, in the image of deploy/Dockerfile:
#   deploy/tpu_vm.sh NAME ZONE IMAGE SHARED --config=configs/dpdd.py --workdir=SHARED/RUN ...
# SHARED is the folder where all hosts have mounted the same disk; the data and the workdir lie in
# it. The arguments after it are those of train.py.
# To end the run with all saved, on one host: sudo docker kill --signal=TERM vitdeblur
set -euo pipefail

if [ "$#" -lt 6 ]; then
  echo "usage: $0 NAME ZONE IMAGE SHARED --config=FILE --workdir=FOLDER [--config.KEY=VALUE ...]" >&2
  exit 2
fi
name=$1 zone=$2 image=$3 shared=$4
shift 4

# A container finds the chips and their neighbours as the host does, if it may see both. The data
# workers hand their crops over through /dev/shm.
container=(
  sudo docker run --rm --name=vitdeblur --privileged --network=host --shm-size=16g
  "--volume=$shared:$shared" "$image" "$@"
)
# Quoted once more, for the shell of the hosts.
exec gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all \
  --command="$(printf '%q ' "${container[@]}")"
