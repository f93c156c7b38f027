"""Exports a model as StableHLO and runs it with only JAX and NumPy.

    python examples/exported_model.py EXPORTED

EXPORTED is a new folder. The export consists of two functions of 0.2 MB. On the machine that
exported them, they give the same image bit for bit.
"""

import subprocess
import sys
from pathlib import Path

import numpy as np

import vitdeblur_jax as vd
from vitdeblur_jax.data.image_io import read_rgb
from vitdeblur_jax.inference.export import export

IMAGE = Path(__file__).parent / "images/defocused/building.jpg"
ALONE = """
import importlib, os, sys
sys.path = [place for place in sys.path if place]  # without the working directory
folder, name = os.path.split(os.path.abspath(sys.argv[1]))
sys.path.insert(0, folder)
import numpy as np
restore = importlib.import_module(name).load()
np.save(f"{sys.argv[1]}/restored.npy", restore(np.load(f"{sys.argv[1]}/image.npy")))
assert not {"vitdeblur_jax", "flax", "PIL"} & set(sys.modules)
"""

if len(sys.argv) != 2:
    sys.exit(__doc__)
folder = Path(sys.argv[1])
try:
    export("demo", folder)
except vd.UserError as error:
    sys.exit(f"error: {error}")
image = read_rgb(IMAGE)[90:290, 480:780] / np.float32(255)
np.save(folder / "image.npy", image)
subprocess.run([sys.executable, "-c", ALONE, folder], check=True)
restored = np.load(folder / "restored.npy")
difference = np.abs(restored - vd.deblur(image, vd.load_pretrained())).max()
size = sum(file.stat().st_size for file in folder.glob("*.exported"))
print(f"functions of {size:,} bytes; the restored image differs by {difference:.0e} at most")
