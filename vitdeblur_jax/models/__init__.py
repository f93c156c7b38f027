"""The model: Flax Linen modules, used as pure functions of (variables, image)."""

from vitdeblur_jax.models.vitdeblur.model import TrainingOutputs as TrainingOutputs
from vitdeblur_jax.models.vitdeblur.model import ViTDeblur as ViTDeblur
from vitdeblur_jax.models.vitdeblur.model import abstract_variables as abstract_variables
from vitdeblur_jax.models.vitdeblur.model import initial_variables as initial_variables
