"""The part of an image that a system restores, saves and measures."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Shaped

from vitdeblur_jax.utils.errors import UserError

_PLACES = {"end": "at the bottom and right", "start": "at the top and left", "around": "all around"}
_FILLS = {"reflect": "by reflection", "black": "with black"}


class Frame(NamedTuple):
    """How a system fits images to the sizes that it takes.

    Attributes:
      way: "whole" leaves images as they are; "crop" and "pad" change their size.
      multiple: The sides are made multiples of it, in pixels.
      place: Where "pad" pads: "end" (bottom and right), "start" (top and left), or "around" (the
        smaller half first). "crop" crops at the end.
      fill: What "pad" pads with: "reflect" (without the edge pixel) or "black".
      accepts: Takes height and width; returns whether the system takes images of this size.
      wanted: These sizes in words; completes "takes".
    """

    way: str = "whole"
    multiple: int = 1
    place: str = "end"
    fill: str = "reflect"
    accepts: Callable[[int, int], bool] = lambda height, width: True
    wanted: str = ""

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Returns height and width of the frame of an image."""
        multiple = self.multiple
        if self.way == "crop":
            return height - height % multiple, width - width % multiple
        if self.way == "pad":
            return height + -height % multiple, width + -width % multiple
        return height, width

    def padding(self, height: int, width: int) -> list[tuple[int, int]]:
        """Returns what "pad" adds before and after an image, for height and width."""
        framed = self.size(height, width)
        missing = [new - old for new, old in zip(framed, (height, width), strict=True)]
        before = {"end": lambda n: 0, "start": lambda n: n, "around": lambda n: n // 2}[self.place]
        return [(before(n), n - before(n)) for n in missing]

    def fit(
        self, image: Shaped[np.ndarray, "height width channels"]
    ) -> Shaped[np.ndarray, "frame_height frame_width channels"]:
        """Returns the frame of an image."""
        height, width = image.shape[:2]
        if self.way == "pad":
            mode = "reflect" if self.fill == "reflect" else "constant"
            return np.pad(image, [*self.padding(height, width), (0, 0)], mode)
        height, width = self.size(height, width)
        return image[:height, :width]

    def check(self, height: int, width: int, system: str, name: str) -> None:
        """Raises `UserError` unless the system takes images of this size.

        Args:
          height: Height of the image, in pixels.
          width: Its width, in pixels.
          system: Name of the system, for the message.
          name: Name of the image, for the message.
        """
        if not self.accepts(height, width):
            raise UserError(
                f"the profile {system} takes {self.wanted}, and {name} is {width} x {height}; "
                "leave the profile out"
            )

    @property
    def in_words(self) -> str:
        """What happens to images whose sides are not multiples of `multiple`."""
        if self.way == "pad":
            where, what = _PLACES[self.place], _FILLS[self.fill]
            return f"padded to a multiple of {self.multiple} {where} {what}"
        if self.way == "crop":
            return f"cropped to a multiple of {self.multiple} from the top left"
        return "as they are"
