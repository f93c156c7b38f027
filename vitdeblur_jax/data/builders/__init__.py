"""Builders of TensorFlow Datasets, without TensorFlow: each public defocus set, and your own.

    import tensorflow_datasets as tfds
    import vitdeblur_jax.data

    builder = tfds.builder("dpdd/dual_pixel_16bit", data_dir=OUT, file_format="array_record")
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=ROOT))
    train = builder.as_data_source("train")

An example holds `name`, `blurred` and, where there is one, `sharp`; synthetic ones `radius` too.
`vitdeblur_jax.data.preparation.prepare` writes the same records, faster to read, and goes on where
it was interrupted.
"""

from vitdeblur_jax.data.builders.base import DefocusBuilder, DefocusConfig
from vitdeblur_jax.data.builders.datasets import (
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
