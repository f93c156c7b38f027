"""Which photographs of a folder are listed."""

import pytest

from vitdeblur_jax.data.image_io import list_photographs
from vitdeblur_jax.errors import UserError


def test_list_photographs(tmp_path):
    for name in ("b.PNG", "a.jpeg", "c.tif", ".hidden.png", "notes.txt", "d.gif"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "folder.png").mkdir()
    assert [path.name for path in list_photographs(tmp_path)] == ["a.jpeg", "b.PNG", "c.tif"]
    (tmp_path / "empty").mkdir()
    expected = rf"^no images in {tmp_path}/empty: looked for \.png, \.jpg"
    with pytest.raises(UserError, match=expected):
        list_photographs(tmp_path / "empty")
    for name in ("missing", "notes.txt"):
        with pytest.raises(UserError, match=name):
            list_photographs(tmp_path / name)
