"""Whether what a checkpoint holds is what a model wants."""

from collections.abc import Iterable, Mapping

from vitdeblur_jax.utils.errors import UserError

Shapes = Mapping[str, tuple[int, ...]]

_FEW, _LONGEST = 5, 120


def shape_differences(stored: Shapes, wanted: Shapes) -> list[str]:
    """Returns what is missing in, too much in or of another shape in `stored` than in `wanted`."""
    wrong = [
        f"{name} is {stored[name]}, should be {shape}"
        for name, shape in wanted.items()
        if name in stored and stored[name] != shape
    ]
    wrong += [f"{name} is missing" for name in wanted if name not in stored]
    return wrong + [f"{name} has no place in it" for name in stored if name not in wanted]


def check_shapes(stored: Shapes, wanted: Shapes, where: str) -> None:
    """Raises `UserError` with the first differences; `where` is the checkpoint's name."""
    check_most_names(stored, wanted, where)
    wrong = shape_differences(stored, wanted)
    if wrong:
        raise UserError(
            f"{where} does not fit the model ({len(wrong)} entries): {few_of(wrong, '; ')}"
        )


def check_most_names(stored: Iterable[str], wanted: Iterable[str], where: str) -> None:
    """Raises `UserError` unless half of the names that a model wants are stored, or more.

    It needs no shapes: nothing is traced for a checkpoint of something else.
    """
    stored, wanted = list(stored), list(wanted)
    there = set(stored)
    missing = [name for name in wanted if name not in there]
    if 2 * len(missing) > len(wanted):
        raise UserError(
            f"{where} does not fit the model: {len(wanted) - len(missing)} of {len(wanted)} names "
            f"fit; missing are {few_of(missing)}; stored are {few_of(stored) or 'none'}"
        )


def few_of(texts: Iterable[str], separator: str = ", ") -> str:
    """Returns the first five texts, shortened and joined, and how many more there are."""
    texts = list(texts)
    more = f"{separator}and {len(texts) - _FEW} more" if len(texts) > _FEW else ""
    return separator.join(text[:_LONGEST] for text in texts[:_FEW]) + more
