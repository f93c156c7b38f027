"""Validation during training: restores whole images and measures them as evaluate.py does."""

from collections.abc import Callable, Mapping, Sequence

import ml_collections
import numpy as np

from vitdeblur_jax.checkpoints.pretrained import Pretrained
from vitdeblur_jax.data.input_pipeline import Source
from vitdeblur_jax.distributed.processes import gather, is_first, split_across_processes
from vitdeblur_jax.inference.deblurring import deblur
from vitdeblur_jax.inference.pixels import as_float
from vitdeblur_jax.metrics import measure
from vitdeblur_jax.models.layers.views import mean_of_views
from vitdeblur_jax.training.data import validation_indices
from vitdeblur_jax.training.logged_images import comparison
from vitdeblur_jax.utils.errors import UserError
from vitdeblur_jax.utils.progress import Progress


def validate_sets(
    pretrained: Pretrained,
    sources: Mapping[str, Source],
    settings: ml_collections.ConfigDict,
    on_tiles: Callable[[int], None] = lambda done: None,
) -> tuple[dict[str, float], dict[str, np.ndarray], float]:
    """Validates on each data set.

    Args:
      pretrained: The network and its variables.
      sources: One or more sources by the name of their data set; "" for the only one.
      settings: `config.validation`.
      on_tiles: See `validate`.

    Returns:
      What `validate` returns, with the prefix `NAME/` for a set with a name; and the mean PSNR of
      the first set, which selects the best checkpoint.
    """
    figures, images, psnrs = {}, {}, []
    for name, source in sources.items():
        means, drawn = validate(
            pretrained,
            source,
            validation_indices(source, settings.num_images),
            settings.num_logged_images,
            stride=settings.stride or None,
            batch_size=settings.batch_size or None,
            on_tiles=on_tiles,
        )
        prefix = f"{name}/" if name else ""
        figures |= {f"{prefix}{key}": value for key, value in means.items()}
        images |= {f"{prefix}{key}": image for key, image in drawn.items()}
        psnrs.append(means["psnr"])
    return figures, images, psnrs[0]


def validate(
    pretrained: Pretrained,
    source: Source,
    indices: Sequence[int],
    num_logged_images: int,
    *,
    stride: int | None = None,
    batch_size: int | None = None,
    on_tiles: Callable[[int], None] = lambda done: None,
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Restores images and compares them with the sharp ones, split across processes.

    Args:
      pretrained: The network and its variables.
      source: Source of the images.
      indices: Indices of the validation images in the source.
      num_logged_images: How many images to draw: the first ones of this process.
      stride: See `deblur`.
      batch_size: See `deblur`.
      on_tiles: Called after each tile; an exception it raises ends the validation.

    Returns:
      Means over the images: `psnr`, `ssim` and `mae` of the output clipped to [0, 1],
      `input_psnr`, `input_ssim` and `input_mae` of the blurred image, and `psnr_gain`, the output's
      PSNR minus the input's. Drawn images by image name.

    Raises:
      UserError: An image cannot be read, or has no sharp image.
    """
    figures, drawn = [], {}
    own_indices = split_across_processes(indices)
    with Progress(len(own_indices), "validation images", shown=is_first()) as progress:
        for index in own_indices:
            example = source[index]
            if "sharp" not in example:
                raise UserError(f"{example['name']}: no sharp image to validate with")
            blurred, sharp = as_float(example["blurred"]), as_float(example["sharp"])
            restored = deblur(
                blurred, pretrained, stride=stride, batch_size=batch_size, on_tiles=on_tiles
            ).clip(0, 1)
            seen = mean_of_views(blurred)
            of_input = {f"input_{name}": value for name, value in measure(seen, sharp).items()}
            figures.append({**measure(restored, sharp), **of_input})
            if len(drawn) < num_logged_images:
                drawn[example["name"]] = comparison(seen, restored, sharp)
            progress.advance()
    figures = [figure for part in gather(figures) for figure in part]
    means = {name: float(np.mean([f[name] for f in figures])) for name in figures[0]}
    return {"psnr_gain": means["psnr"] - means["input_psnr"], **means}, drawn
