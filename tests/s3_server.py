"""An S3 server on the loopback interface: moto's, in a thread of this process."""

import contextlib
import logging
import os
import uuid
from collections.abc import Iterator
from typing import NamedTuple
from unittest import mock

import boto3
import requests
from moto.server import ThreadedMotoServer


class S3Server(NamedTuple):
    """A running server.

    Attributes:
      url: Its address.
      environment: The variables with which clients reach it.
    """

    url: str
    environment: dict[str, str]

    def new_bucket(self) -> str:
        """Returns the address of a new bucket."""
        name = f"bucket-{uuid.uuid4().hex}"
        boto3.client("s3").create_bucket(Bucket=name)
        return f"s3://{name}"

    @contextlib.contextmanager
    def refusing(self) -> Iterator[None]:
        """In this block the server knows no access key."""
        requests.post(f"{self.url}/moto-api/reset-auth", data=b"0", timeout=10)
        try:
            yield
        finally:
            requests.post(f"{self.url}/moto-api/reset-auth", data=b"inf", timeout=10)


@contextlib.contextmanager
def running_s3_server() -> Iterator[S3Server]:
    """Yields a server; meanwhile this process reaches it by its environment."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        url = "http://{}:{}".format(*server.get_host_and_port())
        environment = {
            **{"AWS_ENDPOINT_URL": url, "AWS_DEFAULT_REGION": "us-east-1"},
            "AWS_EC2_METADATA_DISABLED": "true",
            **{"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"},
        }
        with mock.patch.dict(os.environ, environment):
            yield S3Server(url, environment)
    finally:
        server.stop()
