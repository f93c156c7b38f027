"""Photographs and data sets, from their files up to batches for training.

Once this package is imported, `tfds.builder("dpdd")`, `tfds.load` and the like know the builders of
`vitdeblur_jax.data.builders` by name. TensorFlow Datasets takes a second to import, and restoring a
photograph does not need it: so the builders are imported with it, whichever comes first.
"""

import importlib
import importlib.abc
import sys

_TFDS = "tensorflow_datasets"
_BUILDERS = "vitdeblur_jax.data.builders"


class _BuildersFollow(importlib.abc.MetaPathFinder):
    """Finds TensorFlow Datasets as the other finders do, and has the builders imported after it."""

    def find_spec(self, name, path, target=None):
        if name != _TFDS:
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        specs = (finder.find_spec(name, path, target) for finder in others)
        spec = next((spec for spec in specs if spec is not None), None)
        if spec is not None and spec.loader is not None:
            spec.loader = _ThenBuilders(spec.loader)
        return spec


class _ThenBuilders(importlib.abc.Loader):
    def __init__(self, loader):
        self._loader = loader

    def create_module(self, spec):
        return self._loader.create_module(spec)

    def exec_module(self, module):
        module.__spec__.loader = module.__loader__ = self._loader
        self._loader.exec_module(module)
        importlib.import_module(_BUILDERS)


if _TFDS in sys.modules:
    importlib.import_module(_BUILDERS)
else:
    sys.meta_path.insert(0, _BuildersFollow())
