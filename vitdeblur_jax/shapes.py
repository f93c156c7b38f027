"""Whether what a checkpoint holds is what a model wants."""

from collections.abc import Mapping

from vitdeblur_jax.errors import UserError

Shapes = Mapping[str, tuple[int, ...]]


def shape_differences(stored: Shapes, wanted: Shapes) -> list[str]:
    """Returns what is missing in, too much in or of another shape in `stored` than in `wanted`."""
    wrong = [f"{name} is missing" for name in wanted if name not in stored]
    wrong += [f"{name} has no place in it" for name in stored if name not in wanted]
    wrong += [
        f"{name} is {stored[name]}, should be {shape}"
        for name, shape in wanted.items()
        if name in stored and stored[name] != shape
    ]
    return wrong


def check_shapes(stored: Shapes, wanted: Shapes, where: str) -> None:
    """Raises `UserError` with all differences; `where` is the checkpoint's name."""
    wrong = shape_differences(stored, wanted)
    if wrong:
        raise UserError(
            f"{where} does not fit the model ({len(wrong)} entries): {'; '.join(wrong)}"
        )
