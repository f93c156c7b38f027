"""Networks: Flax Linen modules, used as pure functions of (variables, image)."""

from vitdeblur_jax.models.network import abstract_variables as abstract_variables
from vitdeblur_jax.models.network import initial_variables as initial_variables
from vitdeblur_jax.models.networks import create as create
from vitdeblur_jax.models.networks import create_network as create_network
from vitdeblur_jax.models.networks import named_config as named_config
from vitdeblur_jax.models.vitdeblur.model import ViTDeblur as ViTDeblur
