"""What lies beside the package: workflows, issue forms and the citation agree with it."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))


def steps(path: Path) -> list[dict]:
    jobs = yaml.safe_load(path.read_text())["jobs"].values()
    return [step for job in jobs for step in job["steps"]]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_run_parts_that_exist(path):
    parts = set(re.findall(r"^run_(\w+)\(\)", (ROOT / ".ci/run").read_text(), re.MULTILINE))
    called = [step["run"].split() for step in steps(path) if ".ci/run" in step.get("run", "")]
    assert called
    for command, *arguments in called:
        assert command == ".ci/run"
        assert arguments
        assert set(arguments) <= parts
    for job in yaml.safe_load(path.read_text())["jobs"].values():
        assert job["timeout-minutes"] > 0
    assert yaml.safe_load(path.read_text())["permissions"] == {"contents": "read"}


def test_an_unknown_part_is_refused_before_anything_is_built():
    done = subprocess.run([ROOT / ".ci/run", "lint", "nothing"], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("unknown part nothing")


def test_the_pythons_that_are_tested_are_those_of_the_classifiers():
    setup = ROOT / "setup.py"
    if not setup.exists():
        pytest.skip("setup.py is not beside the tests")
    minors = re.search(r"3\.\{minor\}\" for minor in \(([\d, ]+)\)", setup.read_text())[1]
    jobs = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]
    tested = jobs["tests"]["strategy"]["matrix"]["python"]
    assert tested == [f"3.{minor}" for minor in re.findall(r"\d+", minors)]
    assert f'python_requires=">={tested[0]}"' in setup.read_text()


def test_the_citation_has_the_version_of_the_package():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert f"## {citation['version']}" in (ROOT / "CHANGELOG.md").read_text()
    names = [author["family-names"] for author in citation["preferred-citation"]["authors"]]
    readme = " ".join((ROOT / "README.md").read_text().replace(">", "").split())
    assert f"{', '.join(names)}: *{citation['preferred-citation']['title']}*" in readme


@pytest.mark.parametrize("name", ["bug.yml", "feature.yml"])
def test_issue_forms_ask_for_the_installation(name):
    form = yaml.safe_load((ROOT / ".github/ISSUE_TEMPLATE" / name).read_text())
    (asked,) = (item for item in form["body"] if item["id"] == "info")
    assert "vitdeblur info" in asked["attributes"]["label"]
    assert asked.get("validations", {}).get("required", False) == (name == "bug.yml")


def test_the_package_says_that_it_is_typed():
    import vitdeblur_jax

    assert (Path(vitdeblur_jax.__file__).parent / "py.typed").is_file()
