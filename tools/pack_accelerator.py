r"""Packs what a run of `configs/demo_accelerator.py` needs on a machine without a network.

    python tools/pack_accelerator.py IMAGES PACK

IMAGES is a folder of sharp images. PACK is a new folder, which gets

- `photos/`: the images as JPEG XL of distance 1, which is hardly visible, about 1.8 bits per pixel;
  at most 35 MB together. Those that the run holds out for validation are copied as they are.
- `wheels/`: the packages that a machine lacks beside jax, flax, optax, orbax-checkpoint, absl-py,
  numpy, scipy, pillow, safetensors, jaxtyping and tifffile, for `--python` (default: 3.12) on
  x86-64 Linux; 34 MB.
- `run.sh`: the command.

Copy PACK and the repository to the machine. There, in the root of the repository:

    sh PACK/run.sh RUN
"""

import argparse
import collections
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import imagecodecs

from configs.demo_accelerator import get_config
from vitdeblur_jax.data.image_io import as_8_bits, list_images, read_rgb
from vitdeblur_jax.training.examples import spread

WHEELS = (
    *("array_record", "cloudpickle", "grain", "imagecodecs", "ml_collections", "simplejpeg"),
    *("packaging", "portpicker", "tensorboardX", "tqdm"),
)
MOST_BYTES = 35_000_000  # of the photos
_DISTANCE, _EFFORT = 1.0, 5
_COMMAND = """\
# Trains configs/demo_accelerator.py; run it in the root of the repository:
#   sh PACK/run.sh RUN [flags of train.py]
set -e
pack=$(dirname "$0")
run=$1
shift
if ! test -d "$pack/packages"; then
  rm -rf "$pack/packages.new"
  python -m pip install --quiet --no-index --no-deps --target "$pack/packages.new" \\
    "$pack"/wheels/*.whl
  mv "$pack/packages.new" "$pack/packages"
fi
PYTHONPATH="$pack/packages" exec python train.py --config=configs/demo_accelerator.py \\
  --config.data.root="$pack/photos" --workdir="$run" "$@"
"""


def main() -> None:
    """Writes the folder and prints its size."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("images", type=Path, help="folder of sharp images")
    parser.add_argument("pack", type=Path, help="folder to create")
    parser.add_argument("--python", default="3.12", help="version on the machine; default: 3.12")
    options = parser.parse_args()
    if options.pack.exists():
        sys.exit(f"error: {options.pack} exists; name a new folder")
    images = list_images(options.images)
    stems = collections.Counter(path.stem for path in images)
    twice = [stem for stem, count in stems.items() if count > 1]
    if twice:
        sys.exit(f"error: several images are named {twice[0]}; each needs its own name")
    options.pack.mkdir(parents=True)
    size = pack_photos(images, options.pack / "photos")
    if size > MOST_BYTES:
        sys.exit(f"error: the photos take {size / 1e6:.1f} MB, more than 35; use fewer images")
    download(WHEELS, options.pack / "wheels", options.python)
    (options.pack / "run.sh").write_text(_COMMAND)
    total = sum(file.stat().st_size for file in options.pack.rglob("*") if file.is_file())
    print(f"{options.pack}: photos {size / 1e6:.1f} MB, in all {total / 1e6:.1f} MB")


def pack_photos(images: Sequence[Path], folder: Path) -> int:
    """Writes the images to a folder, named so that the same ones are held out.

    Args:
      images: The sharp images of the run.
      folder: The folder to create.

    Returns:
      The number of bytes written.
    """
    folder.mkdir()
    held_out = set(spread(sorted(images), get_config().data.hold_out))
    for path in images:
        if path in held_out:
            shutil.copy(path, folder)
            continue
        pixels = as_8_bits(read_rgb(path))
        encoded = imagecodecs.jpegxl_encode(pixels, distance=_DISTANCE, effort=_EFFORT)
        (folder / f"{path.stem}.jxl").write_bytes(encoded)
    return sum(file.stat().st_size for file in folder.iterdir())


def download(packages: Sequence[str], folder: Path, python: str) -> None:
    """Downloads wheels for x86-64 Linux."""
    platforms = [f"--platform=manylinux_2_{minor}_x86_64" for minor in (28, 24, 17)]
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"),
            *("--only-binary=:all:", f"--dest={folder}", f"--python-version={python}"),
            *(*platforms, *packages),
        ],
        check=True,
    )


if __name__ == "__main__":
    main()
