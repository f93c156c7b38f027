import math

import pytest

from tests.published_networks import PEERS, entry_shapes
from vitdeblur_jax.cli.main import main
from vitdeblur_jax.models import networks


def listed(capsys) -> dict[str, list[str]]:
    assert main(["networks"]) == 0
    header, _, *rows = capsys.readouterr().out.splitlines()
    assert header.split() == ["configuration", "network", "parameters", "views", "tiling"]
    return {row.split()[0]: row.split(maxsplit=4)[1:] for row in rows}


def test_the_table_says_parameters_views_and_tiling(capsys, monkeypatch):
    names = ["tiny", "dpdnet", "kpac_3level"]
    monkeypatch.setattr(networks, "configuration_names", lambda: names)
    assert listed(capsys) == {
        "tiny": ["ViTDeblur", "2,073,594", "1", "windows of 106, stride 45"],
        "dpdnet": ["DPDNet", "31,035,151", "2", "exact tiles, halo 112"],
        "kpac_3level": ["KPAC", "2,057,893", "1", "whole image"],
    }


@pytest.mark.slow
def test_every_configuration_is_listed(capsys):
    rows = listed(capsys)
    assert list(rows) == networks.configuration_names()
    for name, file in {"drbnet_dual": "drbnet/shapes_dual", "mdp": "mdp/shapes"}.items():
        count = sum(math.prod(shape) for shape in entry_shapes(PEERS / f"{file}.json").values())
        assert rows[name][1] == f"{count:,}"
