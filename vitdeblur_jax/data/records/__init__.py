"""Data sets as records: TensorFlow Datasets builders, and a tool that prepares records."""
