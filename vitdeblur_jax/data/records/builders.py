"""TensorFlow Datasets builders for public defocus data sets and your own, without TensorFlow.

    import tensorflow_datasets as tfds
    import vitdeblur_jax.data.records.builders

    builder = tfds.builder("dpdd/dual_pixel_16bit", data_dir=OUT, file_format="array_record")
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=ROOT))
    train = builder.as_data_source("train")

An example has `name`, `blurred` and, if available, `sharp`. Synthetic examples also have `radius`.
`vitdeblur_jax.data.records.preparation.prepare` writes the same records. Its files are faster to
read, and it resumes after an interruption.
"""

from vitdeblur_jax.data.records.base import DefocusBuilder, DefocusConfig
from vitdeblur_jax.data.records.datasets import (
    Cuhk,
    Dpdd,
    Lfdof,
    PairedFolder,
    Pixeldp,
    Realdof,
    SyntheticDefocus,
)

BUILDERS: dict[str, type[DefocusBuilder]] = {
    builder.name: builder
    for builder in (Dpdd, Realdof, Lfdof, Cuhk, Pixeldp, PairedFolder, SyntheticDefocus)
}

__all__ = ["BUILDERS", "DefocusBuilder", "DefocusConfig", *(b.__name__ for b in BUILDERS.values())]
