"""Paths in a bucket of an S3 server on this machine, read back with boto3."""

import pathlib
import sys

import boto3
import numpy as np
import pytest
from etils import epath

from vitdeblur_jax import load_pretrained, save_pretrained
from vitdeblur_jax.data.image_io import DecodedImage, size_of, write_image
from vitdeblur_jax.utils import buckets
from vitdeblur_jax.utils.buckets import as_path, names_in, reachable, upload
from vitdeblur_jax.utils.errors import ExistsError, UserError
from vitdeblur_jax.utils.files import replaced_when_whole, write_text
from vitdeblur_jax.utils.json_files import read_json


def objects(bucket) -> dict[str, bytes]:
    client, name = boto3.client("s3"), bucket.parts[2]
    found = client.list_objects_v2(Bucket=name).get("Contents", [])
    keys = [entry["Key"] for entry in found]
    return {key: client.get_object(Bucket=name, Key=key)["Body"].read() for key in keys}


@pytest.mark.parametrize("address", ["gs://a/b/c", "s3://a/b/c"])
def test_addresses_keep_their_slashes(address):
    path = as_path(address)
    assert isinstance(path, epath.Path)
    assert str(path) == str(as_path(path)) == address
    assert str(path / "d") == f"{address}/d"
    assert str(path.parent) == address[:-2]


@pytest.mark.parametrize("path", ["a/b", "/a", "s3:/a", "gs", "~/a"])
def test_other_paths_are_on_disk(path):
    assert type(as_path(path)) is type(reachable(path)) is type(pathlib.Path())


def test_other_addresses_are_refused():
    with pytest.raises(UserError, match=r"^az://a/b: az:// is not supported; buckets are gs://"):
        reachable("az://a/b")
    with pytest.raises(UserError, match=r"^s3:// names no bucket; write s3://BUCKET"):
        reachable("s3://")


def test_text_is_written_whole_and_read_back(bucket):
    write_text(bucket / "run/config.json", '{"a": "\u00e4"}')
    assert objects(bucket) == {"run/config.json": '{"a": "\u00e4"}'.encode()}
    assert read_json(bucket / "run/config.json") == {"a": "\u00e4"}
    write_text(bucket / "run/config.json", "{}")
    assert objects(bucket) == {"run/config.json": b"{}"}
    with pytest.raises(UserError, match=r"s3://.*/run/none: cannot be read"):
        read_json(bucket / "run/none")


def test_nothing_is_written_after_an_error(bucket):
    def write_half():
        with replaced_when_whole(bucket / "a") as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_half()
    assert objects(bucket) == {}


def test_another_writer_is_not_overwritten(bucket):
    def write_late():
        with replaced_when_whole(bucket / "a", overwrite=False) as temporary:
            temporary.write_text("late")
            write_text(bucket / "a", "early")

    with pytest.raises(ExistsError, match="another process has written s3://"):
        write_late()
    assert objects(bucket) == {"a": b"early"}


def test_another_process_is_seen_at_once(bucket):
    assert not (bucket / "run").is_dir()
    boto3.client("s3").put_object(Bucket=bucket.parts[2], Key="run/a", Body=b"1")
    assert (bucket / "run").is_dir()
    assert names_in(bucket / "run") == ["a"]
    boto3.client("s3").delete_object(Bucket=bucket.parts[2], Key="run/a")
    assert names_in(bucket / "run") == []


def test_images(bucket):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    write_image(DecodedImage(pixels), bucket / "images/a.png")
    assert objects(bucket)["images/a.png"][:4] == b"\x89PNG"
    assert size_of(bucket / "images/a.png") == (30, 20)
    assert size_of(bucket / "images/b.png") is None


def test_a_checkpoint_file_is_loaded(bucket, small, tmp_path):
    save_pretrained(small, tmp_path / "small.safetensors")
    upload(tmp_path / "small.safetensors", bucket / "small.safetensors")
    loaded = load_pretrained(str(bucket / "small.safetensors"))
    assert loaded.source == str(bucket / "small.safetensors")
    local = load_pretrained(tmp_path / "small.safetensors")
    assert repr(loaded.variables) == repr(local.variables)
    write_text(bucket / "damaged.safetensors", "x" * 99)
    with pytest.raises(UserError, match=f"^{bucket}/damaged.safetensors"):
        load_pretrained(bucket / "damaged.safetensors")
    with pytest.raises(UserError, match=f"there is no checkpoint '{bucket}/none'"):
        load_pretrained(bucket / "none")


def test_nothing_is_saved_into_a_bucket_by_hand(small):
    with pytest.raises(UserError, match=r"^s3://a/b: checkpoints are saved on disk"):
        save_pretrained(small, "s3://a/b")


def test_a_bucket_that_cannot_be_used_is_told_in_one_line(s3_server, bucket):
    with pytest.raises(UserError, match=r"^s3://none/run: there is no bucket 'none'; create it"):
        reachable("s3://none/run")
    with s3_server.refusing(), pytest.raises(UserError, match=r"run: cannot be listed \(The AWS"):
        names_in(bucket / "run")
    with s3_server.refusing(), pytest.raises(UserError) as refusal:
        reachable(bucket / "run")
    assert str(refusal.value) == (
        f"{bucket}/run: the bucket cannot be used (The AWS Access Key Id you provided does not "
        "exist in our records.)"
    )
    assert reachable(bucket / "run") == bucket / "run"


@pytest.mark.parametrize(
    ("scheme", "package", "extra"), [("gs", "gcsfs", "gcs"), ("s3", "s3fs", "s3")]
)
def test_a_missing_package_is_named(monkeypatch, scheme, package, extra):
    monkeypatch.setitem(sys.modules, package, None)
    buckets._prepare.cache_clear()
    with pytest.raises(UserError) as refusal:
        reachable(f"{scheme}://a/b")
    assert str(refusal.value) == (
        f"{scheme}:// needs {package}: pip install 'vitdeblur_jax[{extra}]'"
    )


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        ("google.auth.exceptions", True),
        ("google.api_core.exceptions", True),
        ("botocore", True),
        ("gcsfs.retry", True),
        ("google.protobuf.message", False),
        ("gcsfsx", False),
    ],
)
def test_errors_of_storage(module, expected):
    error = type("Error", (Exception,), {"__module__": module})
    assert buckets.is_of_storage(error()) is expected
