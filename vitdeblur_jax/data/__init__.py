"""Images and data sets, from their files up to batches for training.

`tfds.builder("dpdd")`, `tfds.load` and the like find the builders by name once
`vitdeblur_jax.data.records.builders` is imported, which takes as long as TensorFlow Datasets
itself.
"""
