"""Matching of saved images with the pairs of a data set."""

import fnmatch
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from os.path import commonpath
from pathlib import Path
from typing import NamedTuple

from vitdeblur_jax.data.image_io import IMAGE_SUFFIXES
from vitdeblur_jax.data.pairs import Pair
from vitdeblur_jax.data.recognition import images_in
from vitdeblur_jax.evaluation.profiles import PROFILES, SOURCE_NAMES, Profile
from vitdeblur_jax.utils.errors import UserError, one_line
from vitdeblur_jax.utils.natural_order import some

_IN_WORDS = dict.fromkeys(SOURCE_NAMES, "source names") | {
    "{target}": "target names",
    "{name}": "the names of the pairs",
}

_COUNTS = re.compile(r"\{(index|number)\b")


class Match(NamedTuple):
    """The images in a folder that belong to the pairs of a data set.

    Attributes:
      files: The found images, by the name of their pair.
      missing: The expected file names of the missing images, without suffix, by the name of their
        pair.
      profiles: The profiles whose naming matches.
      rule: A summary of the match, for people.
    """

    files: dict[str, Path]
    missing: dict[str, str]
    profiles: tuple[Profile, ...]
    rule: str


class _Candidate(NamedTuple):
    profile: Profile
    template: str
    files: dict[str, Path]
    missing: dict[str, str]


def match(folder: Path, pairs: Sequence[Pair], profile: Profile | None = None) -> Match:
    """Finds the image of each pair in a folder.

    It tries all profiles, or the given one, and takes the profile that matches the most images.
    Profiles that match the same images count as one. If another profile matches other images, for
    at least half as many pairs, the match is ambiguous and an error.

    Args:
      folder: Folder of the images, or the parent of the profile's own folder.
      pairs: The pairs of the data set, in order.
      profile: Profile of the system that saved the images; None tries all.

    Raises:
      UserError: No profile matches an image, several match different images, or two images have the
        same name.
    """
    files = _list_images(folder)
    candidates = [
        candidate
        for one in (PROFILES if profile is None else (profile,))
        for candidate in _candidates(one, files, pairs)
    ]
    if not candidates:
        raise UserError(_nothing_fits(folder, pairs, profile))
    fullest = max(candidates, key=lambda candidate: len(candidate.files))
    equal = [one for one in candidates if one.files == fullest.files]
    rivals = [one for one in candidates if _is_rival(one.files, fullest.files)]
    if rivals:
        raise UserError(_ambiguous(folder, [*equal, *rivals]))
    _refuse_twins(folder, files, fullest)
    profiles = tuple(dict.fromkeys(one.profile for one in equal))
    return Match(fullest.files, fullest.missing, profiles, _rule(equal, files, len(pairs)))


def _list_images(folder: Path) -> dict[str, list[Path]]:
    """Lists the images in a folder and its direct subfolders, by relative name without suffix."""
    try:
        folders = sorted(path for path in folder.iterdir() if path.is_dir())
    except OSError as error:
        raise UserError(f"{folder}: cannot be listed as a folder ({one_line(error)})") from error
    listed: dict[str, list[Path]] = {}
    for path in images_in([folder, *folders]):
        listed.setdefault(path.relative_to(folder).with_suffix("").as_posix(), []).append(path)
    return listed


def _candidates(
    profile: Profile, files: dict[str, list[Path]], pairs: Sequence[Pair]
) -> Iterator[_Candidate]:
    """Yields a candidate for each of a profile's name templates that matches files."""
    if profile.folder:
        prefix = f"{profile.folder}/"
        own = {name.removeprefix(prefix): files[name] for name in files if name.startswith(prefix)}
        files = own or files
    parts, orders_agree = _parts_of_names(pairs), _orders_agree(pairs)
    for template in _templates(profile, files, pairs):
        names = {pair.name: template.format(**of) for pair, of in zip(pairs, parts, strict=True)}
        if _COUNTS.search(template) and not orders_agree:
            continue
        if len(set(names.values())) < len(names):  # several pairs may share a target
            continue
        found = {pair: files[name][0] for pair, name in names.items() if name in files}
        if found:
            missing = {pair: name for pair, name in names.items() if name not in files}
            yield _Candidate(profile, template, found, missing)


def _orders_agree(pairs: Sequence[Pair]) -> bool:
    """Returns whether alphabetical and natural order of the pairs are the same."""
    names = [pair.name for pair in pairs]
    return names == sorted(names)


def _is_rival(files: dict[str, Path], fullest: dict[str, Path]) -> bool:
    if len(files) == len(fullest):
        return files != fullest
    # A subset of the same images is no rival: 01 to 49 can be names as well as numbers.
    are_others = not set(files.values()) <= set(fullest.values())
    return are_others and 2 * len(files) >= len(fullest)


def _templates(profile: Profile, files: Iterable[str], pairs: Sequence[Pair]) -> Iterator[str]:
    for template in profile.names:
        if "{suffix}" not in template:
            yield template
            continue
        for suffix in _suffixes(files, pairs, profile.beside):
            yield template.replace("{suffix}", suffix.replace("{", "{{").replace("}", "}}"))


def _suffixes(files: Iterable[str], pairs: Sequence[Pair], beside: Sequence[str]) -> list[str]:
    """Returns the suffixes after a source's name and an underscore, except in `beside` names."""
    sources = {pair.source[0].stem for pair in pairs}
    found = Counter()
    for name in files:
        if not _is_any(name, beside):
            parts = name.split("_")
            heads = ("_".join(parts[:i]) for i in range(1, len(parts)))
            found.update(name[len(head) + 1 :] for head in heads if head in sources)
    return list(found)


def _parts_of_names(pairs: Sequence[Pair]) -> list[dict[str, str | int]]:
    root = commonpath([pair.source[0].parent for pair in pairs])
    return [
        {
            "source": pair.source[0].stem,
            "path": pair.source[0].relative_to(root).with_suffix("").as_posix(),
            "target": pair.target.stem if pair.target else pair.name,
            "name": pair.name,
            "index": index,
            "number": index + 1,
        }
        for index, pair in enumerate(pairs)
    ]


def _is_any(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _rule(equal: Sequence[_Candidate], files: dict[str, list[Path]], count: int) -> str:
    names = dict.fromkeys(_IN_WORDS.get(one.template, one.template) for one in equal)
    systems = ", ".join(dict.fromkeys(one.profile.system for one in equal))
    taken = {str(path) for path in equal[0].files.values()}
    rest = [name for name, (path, *_) in files.items() if str(path) not in taken]
    beside = [name for name in rest if any(_is_any(name, one.profile.beside) for one in equal)]
    parts = [f"{len(taken)} of {count} images by {' or '.join(names)} ({systems})"]
    if beside:
        parts.append(f"{len(beside)} accompanying files ignored")
    if len(rest) > len(beside):
        parts.append(f"{len(rest) - len(beside)} other images unmatched")
    return "; ".join(parts)


def _refuse_twins(folder: Path, files: dict[str, list[Path]], taken: _Candidate) -> None:
    chosen = set(taken.files.values())
    twins = [paths for paths in files.values() if len(paths) > 1 and paths[0] in chosen]
    if twins:
        names = " and ".join(path.name for path in twins[0])
        raise UserError(f"{folder}: two images have the same name, {names}; remove one of them")


def _ambiguous(folder: Path, rivals: Sequence[_Candidate]) -> str:
    ways: dict[str, list[str]] = {}
    for one in rivals:
        image = next(iter(one.files.values())).name
        ways.setdefault(f"{len(one.files)} such as {image}", []).append(one.profile.system)
    fits = some(f"{way} ({', '.join(dict.fromkeys(who))})" for way, who in ways.items())
    settled = f"NAME:{rivals[0].profile.system.casefold()}={folder}"
    return f"{folder}: the match is ambiguous, {fits}; name the system, as in {settled}"


def _nothing_fits(folder: Path, pairs: Sequence[Pair], profile: Profile | None) -> str:
    templates = {
        template
        for one in (PROFILES if profile is None else (profile,))
        for template in one.names
        if "{suffix}" not in template
    }
    (parts,) = _parts_of_names(pairs[:1])
    wanted = ", ".join(sorted({template.format(**parts) for template in templates}))
    found = some(path.name for path in folder.iterdir()) or "nothing"
    endings = ", ".join(IMAGE_SUFFIXES)
    counted = ""
    if any(map(_COUNTS.search, templates)) and not _orders_agree(pairs):
        counted = (
            "; numbered images are not matched, because alphabetical and natural order of the "
            "pairs differ"
        )
    return f"no image in {folder} is named {wanted} ({endings}); it holds {found}{counted}"
