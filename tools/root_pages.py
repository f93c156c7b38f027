"""A hook of MkDocs: pages that lie beside README.md are pages of the site, too.

Links between them and docs/ are written as they are right on disk, and so on GitHub.
"""

from importlib.util import find_spec
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
PAGES = ("CHANGELOG.md", "CONTRIBUTING.md", "MODEL_CARD.md")
# The package lies elsewhere where the site is built beside an installed wheel.
PACKAGE = Path(find_spec("vitdeblur_jax").origin).parent
FILES = ("vitdeblur_jax/weights/CREDITS.csv",)


def on_files(files, config):
    """Adds the pages, and the files that they link to, to those of docs/."""
    places = {name: ROOT for name in PAGES} | {name: PACKAGE.parent for name in FILES}
    for name, folder in places.items():
        files.append(File.generated(config, name, abs_src_path=str(folder / name)))
    return files


def on_page_markdown(markdown, page, config, files):
    """Turns links that cross the border of docs/ into those of the site."""
    if page.file.src_uri in PAGES:
        return markdown.replace("](docs/", "](")
    for name in PAGES:
        markdown = markdown.replace(f"](../{name}", f"]({name}")
    return markdown
