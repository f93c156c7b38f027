"""Builders of TensorFlow Datasets, without TensorFlow: each public defocus set, and your own.

    import tensorflow_datasets as tfds
    import vitdeblur_jax.data.records.builders

    builder = tfds.builder("dpdd/dual_pixel_16bit", data_dir=OUT, file_format="array_record")
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=ROOT))
    train = builder.as_data_source("train")

An example holds `name`, `blurred` and, where there is one, `sharp`; synthetic ones `radius` too.
`vitdeblur_jax.data.records.preparation.prepare` writes the same records, which are faster to read,
and resumes after an interruption.
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
