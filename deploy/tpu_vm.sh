#!/usr/bin/env bash
# Trains on all hosts of a running Cloud TPU slice, in the image of deploy/Dockerfile:
#   deploy/tpu_vm.sh NAME ZONE IMAGE SHARED --config=configs/dpdd.py --workdir=SHARED/RUN ...
# SHARED is the folder where all hosts have mounted the same disk; it holds the data and the workdir,
# which may also be gs://BUCKET/RUN. The arguments after it are those of train.py.
# To save and end the run, on one host: sudo docker kill --signal=TERM vitdeblur
set -euo pipefail

if [ "$#" -lt 6 ]; then
  echo "usage: $0 NAME ZONE IMAGE SHARED --config=FILE --workdir=FOLDER [--config.KEY=VALUE ...]" >&2
  exit 2
fi
name=$1 zone=$2 image=$3 shared=$4
shift 4

# --privileged and --network=host give the container access to the chips and to the other hosts. The
# data workers pass their crops through /dev/shm.
container=(
  sudo docker run --rm --name=vitdeblur --privileged --network=host --shm-size=16g
  "--volume=$shared:$shared" "$image" "$@"
)
# Quoted again for the shell of the hosts.
exec gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all \
  --command="$(printf '%q ' "${container[@]}")"
