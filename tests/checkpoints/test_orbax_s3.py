"""What Orbax gives TensorStore for folders on S3; TensorStore itself parses it."""

import pytest
import tensorstore
from orbax.checkpoint._src.serialization import tensorstore_utils

from vitdeblur_jax.checkpoints import orbax_s3
from vitdeblur_jax.utils.errors import UserError

VARIABLES = (*orbax_s3._ENDPOINTS, *orbax_s3._REGIONS, "AWS_ACCESS_KEY_ID")


@pytest.fixture
def environment(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    return monkeypatch.setenv


def stored_at(folder: str, name: str | None = None) -> dict:
    """Returns the store below the database in which Orbax keeps arrays."""
    spec = tensorstore_utils.build_kvstore_tspec(folder, name)
    return tensorstore.KvStore.Spec(spec).to_json()["base"]


def test_only_s3_is_redirected(environment):
    orbax_s3.prepare_for("s3://bucket/run")
    google = stored_at("gs://bucket/run/3")
    assert stored_at("s3://bucket/run/3") == {**google, "driver": "s3"}
    assert stored_at("s3:/bucket/run/3", "kernel") == stored_at("s3://bucket/run/3")
    assert google["driver"] == "gcs"
    assert stored_at("/run/3")["driver"] == "file"


def test_another_service_and_keys_are_taken_from_the_environment(environment):
    orbax_s3.prepare_for("s3://bucket/run")
    environment("AWS_ACCESS_KEY_ID", "key")
    assert stored_at("s3://bucket/run")["aws_credentials"] == {"type": "environment"}
    environment("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    assert stored_at("s3://bucket/run")["aws_region"] == "us-east-1"
    environment("AWS_DEFAULT_REGION", "here")
    environment("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:2")
    spec = stored_at("s3://bucket/run")
    assert (spec["endpoint"], spec["aws_region"]) == ("http://127.0.0.1:2", "here")


def test_other_places_need_no_options():
    assert orbax_s3.prepare_for("gs://bucket/run") == orbax_s3.prepare_for("/run") == {}


def test_a_version_of_orbax_that_works_otherwise_is_told(monkeypatch):
    orbax_s3._select_s3_driver.cache_clear()
    monkeypatch.delattr(tensorstore_utils, "build_kvstore_tspec")
    with pytest.raises(UserError, match=r"s3:// are not supported with orbax-checkpoint \S+: pip"):
        orbax_s3.prepare_for("s3://bucket/run")
