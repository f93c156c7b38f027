"""Images and data sets, from their files up to batches for training.

`tfds.builder("dpdd")`, `tfds.load` and the like know the builders by name once
`vitdeblur_jax.data.builders` is imported, which takes as long as TensorFlow Datasets itself.
"""
