"""The job files: their syntax, and that they name what there is."""

import re
import subprocess
from importlib.metadata import metadata
from pathlib import Path

import pytest
import yaml
from flax import traverse_util

from configs.evaluate import get_config as evaluation_config
from vitdeblur_jax.training.defaults import default_config

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
FILES = sorted(path for path in DEPLOY.iterdir() if path.is_file())


@pytest.mark.parametrize("name", ["slurm.sbatch", "tpu_vm.sh"])
def test_the_shell_can_read_the_script(name):
    done = subprocess.run(["bash", "-n", DEPLOY / name], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_script_for_tpus_quotes_its_arguments_for_the_hosts(tmp_path):
    gcloud = tmp_path / "gcloud"
    gcloud.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    gcloud.chmod(0o755)
    flags = ["--config=configs/dpdd.py", "--workdir=/mnt/my run", "--config.profile=(1, 2)"]
    command = [DEPLOY / "tpu_vm.sh", "slice", "zone", "IMAGE", "/mnt", *flags]
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    given = done.stdout.splitlines()
    assert given[:4] == ["compute", "tpus", "tpu-vm", "ssh"]
    (on_hosts,) = [line.removeprefix("--command=") for line in given if "--command=" in line]
    words = subprocess.run(
        ["bash", "-c", f'printf "%s\\n" {on_hosts}'], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert words[-4:] == ["IMAGE", *flags]
    assert "--volume=/mnt:/mnt" in words


def test_the_script_for_tpus_tells_its_usage():
    done = subprocess.run([DEPLOY / "tpu_vm.sh", "slice"], capture_output=True, text=True)
    assert done.returncode == 2
    assert re.fullmatch("usage: [^\n]*\n", done.stderr)


def test_the_job_of_kubernetes():
    *access, jobset = yaml.safe_load_all((DEPLOY / "jobset.yaml").read_text())
    assert [part["kind"] for part in access] == ["ServiceAccount", "Role", "RoleBinding"]
    assert jobset["kind"] == "JobSet"
    (replicated,) = jobset["spec"]["replicatedJobs"]
    job = replicated["template"]["spec"]
    assert job["completionMode"] == "Indexed"  # by which JAX numbers the processes
    assert job["completions"] == job["parallelism"]
    pod = job["template"]["spec"]
    assert pod["serviceAccountName"] == access[0]["metadata"]["name"]
    (container,) = pod["containers"]
    chips = job["parallelism"] * container["resources"]["limits"]["nvidia.com/gpu"]
    flags = dict(argument.split("=", 1) for argument in container["args"])
    assert int(flags["--config.batch_size"]) % chips == 0
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]}


@pytest.mark.parametrize("path", [*FILES, ROOT / "docs/pods.md"], ids=lambda path: path.name)
def test_configs_and_their_keys_exist(path):
    text = path.read_text()
    for config in re.findall(r"--config=([\w/.]+\.py)", text):
        assert (ROOT / config).is_file(), config
    keys = {*flat(default_config("base")), *flat(evaluation_config())}
    assert set(re.findall(r"--config\.([a-z][\w.]*)=", text)) <= keys


def flat(config):
    return traverse_util.flatten_dict(config.to_dict(), sep=".")


def test_the_image_has_the_extras_that_the_package_has():
    text = (DEPLOY / "Dockerfile").read_text()
    extras = re.findall(r'"(\w+)"', re.search(r"# (.*)\nARG EXTRA", text)[1])
    assert set(extras) <= set(metadata("vitdeblur_jax").get_all("Provides-Extra"))
    assert re.search(r"^ARG EXTRA=cuda$", text, re.MULTILINE)
