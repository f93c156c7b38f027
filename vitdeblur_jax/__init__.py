"""ViTDeblur in JAX: restores photographs that are out of focus.

    import vitdeblur_jax as vd
    pretrained = vd.load_pretrained("vitdeblur.pth")
    sharp = vd.deblur(image, pretrained)

Images are RGB, channels last; floats lie in [0, 1].
"""

from vitdeblur_jax.checkpoints import Pretrained as Pretrained
from vitdeblur_jax.checkpoints import load_pretrained as load_pretrained
from vitdeblur_jax.checkpoints import save_pretrained as save_pretrained
from vitdeblur_jax.deblurring import deblur as deblur
from vitdeblur_jax.errors import UserError as UserError
from vitdeblur_jax.models import ViTDeblur as ViTDeblur
