"""The base model with random variables, for measurements that do not depend on their values."""

from vitdeblur_jax.checkpoints.pretrained import Pretrained
from vitdeblur_jax.models import ViTDeblur, create, initial_variables


def random_base_model() -> Pretrained:
    """Returns the untrained base model with nonzero contextual features in all channels."""
    return with_random_variables(create("base"))


def with_random_variables(model: ViTDeblur) -> Pretrained:
    """Returns an untrained model with nonzero contextual features in all channels."""
    variables = initial_variables(model, seed=0)
    encoder = variables["params"]["contextual_encoder"]
    encoder["blur_parameter"] = encoder["blur_parameter"] + 1
    return Pretrained(model, variables, "random")
