"""Data sets as records: builders of TensorFlow Datasets, and their preparation."""
