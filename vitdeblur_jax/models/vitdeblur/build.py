"""From a configuration to the model, and back."""

import flax.linen as nn
import ml_collections

from vitdeblur_jax.models.vitdeblur.configuration import check_configuration, make_tiling
from vitdeblur_jax.models.vitdeblur.contextual_encoder import ContextualEncoder
from vitdeblur_jax.models.vitdeblur.decoder import Decoder
from vitdeblur_jax.models.vitdeblur.image_head import ImageHead
from vitdeblur_jax.models.vitdeblur.model import ViTDeblur, architecture
from vitdeblur_jax.models.vitdeblur.primary_encoder import PrimaryEncoder
from vitdeblur_jax.models.vitdeblur.tokenizer import Tokenizer


def make_vitdeblur(
    config: ml_collections.ConfigDict,
    tiling: ml_collections.ConfigDict,
    *,
    dtype: str = "float32",
    precision: str = "highest",
    remat: bool = False,
) -> ViTDeblur:
    """Returns the model of a configuration.

    Args:
      config: The architecture, as in `vitdeblur_jax.models.vitdeblur.configuration`.
      tiling: Window, stride, margin and train_stride.
      dtype: Of the computation, "float32" or "bfloat16"; parameters are float32.
      precision: Of float32 products on GPU and TPU: "highest", "high" or "default" (fastest).
      remat: Recompute each block in the backward pass: less memory, the same numbers.

    Raises:
      UserError: Values that do not fit together, with the two numbers that disagree.
    """
    check_configuration(config)
    numerics = {"dtype": dtype, "precision": precision}
    blocks = {"mlp_ratio": config.mlp_ratio, "remat": remat, **numerics}
    encoder, context, decoder = config.primary_encoder, config.contextual_encoder, config.decoder
    return ViTDeblur(
        tokenizer=Tokenizer(encoder.width, **config.tokenizer, **numerics),
        primary_encoder=PrimaryEncoder(**encoder, **blocks),
        contextual_encoder=ContextualEncoder(
            encoder.width,
            context.depth,
            context.num_heads,
            projector_widths=tuple(context.projector_widths),
            **blocks,
        ),
        decoder=Decoder(
            **decoder,
            patch_stride=config.tokenizer.patch_stride,
            features=config.image_head.features,
            **blocks,
        ),
        image_head=ImageHead(**config.image_head, views=config.views, **numerics),
        tiling=make_tiling(config, tiling),
        train_stride=tiling.train_stride,
    )


def vitdeblur_config(model: nn.Module) -> dict[str, dict] | None:
    """Returns what `make_vitdeblur` made the model of: "model" and "tiling" as plain values.

    None if a part is another module than `make_vitdeblur` uses.
    """
    if type(model) is not ViTDeblur or not _has_own_parts(model):
        return None
    tiling = model.tiling
    return {
        "model": architecture(model).to_dict(),
        "tiling": {
            "window": tiling.size,
            "stride": tiling.stride,
            "margin": tiling.margin,
            "train_stride": model.train_stride,
        },
    }


def _has_own_parts(model):
    parts = {
        "tokenizer": Tokenizer,
        "primary_encoder": PrimaryEncoder,
        "contextual_encoder": ContextualEncoder,
        "decoder": Decoder,
        "image_head": ImageHead,
    }
    return all(type(getattr(model, name)) is part for name, part in parts.items())
