"""Comparison of a checkpoint's names and shapes with those of a model."""

from collections.abc import Iterable, Mapping

from vitdeblur_jax.utils.errors import UserError

Shapes = Mapping[str, tuple[int, ...]]

_FEW, _LONGEST = 5, 120


def shape_differences(stored: Mapping[str, object], wanted: Mapping[str, object]) -> list[str]:
    """Returns a line for each entry that is missing, unexpected or different in `stored`.

    The values are shapes, or other descriptions of arrays.
    """
    wrong = [
        f"{name} is {stored[name]}, should be {value}"
        for name, value in wanted.items()
        if name in stored and stored[name] != value
    ]
    wrong += [f"{name} is missing" for name in wanted if name not in stored]
    return wrong + [f"{name} has no place in it" for name in stored if name not in wanted]


def check_shapes(stored: Shapes, wanted: Shapes, where: str) -> None:
    """Raises `UserError` with the first differences, if any; `where` names the checkpoint."""
    check_most_names(stored, wanted, where)
    wrong = shape_differences(stored, wanted)
    if wrong:
        raise UserError(
            f"{where} does not fit the model ({len(wrong)} entries): {few_of(wrong, '; ')}"
        )


def check_most_names(stored: Iterable[str], wanted: Iterable[str], where: str) -> None:
    """Raises `UserError` if the checkpoint lacks more than half of the model's names.

    It needs no shapes, so a model is not traced for an unrelated checkpoint.
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
    """Returns the first five texts, shortened and joined, and the number of the others."""
    texts = list(texts)
    more = f"{separator}and {len(texts) - _FEW} more" if len(texts) > _FEW else ""
    return separator.join(text[:_LONGEST] for text in texts[:_FEW]) + more
