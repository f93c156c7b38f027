"""The base model with random variables, for measuring what does not depend on their values."""

from vitdeblur_jax.checkpoints.pretrained import Pretrained
from vitdeblur_jax.models import create, initial_variables


def random_base_model() -> Pretrained:
    """Returns the base model, untrained but with every channel of the context in use."""
    model = create("base")
    variables = initial_variables(model, seed=0)
    encoder = variables["params"]["contextual_encoder"]
    encoder["blur_parameter"] = encoder["blur_parameter"] + 1
    return Pretrained(model, variables, "random")
