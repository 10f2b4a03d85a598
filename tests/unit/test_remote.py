"""Addresses of object storage, without any."""

import pickle
from pathlib import Path

import pytest

from virtual_stain.errors import ConfigError
from virtual_stain.remote import RemotePath, parse_location, server_of


def test_addresses_and_folders_are_told_apart():
    assert parse_location("records/a b") == Path("records/a b")
    assert parse_location("s3://bucket/a b/") == RemotePath("s3://bucket/a b")
    path = parse_location("az://account/container") / "manifest.json"
    assert (str(path), path.name, path.scheme) == ("az://account/container/manifest.json", "manifest.json", "az")
    assert path.resolve() == pickle.loads(pickle.dumps(path)) == path


@pytest.mark.parametrize("text", ["ftp://host/x", "s3://", "s3:///", "://x"])
def test_what_cannot_be_read_is_refused(text):
    with pytest.raises(ConfigError, match="expected a folder, or a URL"):
        parse_location(text)


@pytest.mark.parametrize(
    ("url", "environment", "server"),
    [
        ("s3://b/x", {}, ("s3.us-east-1.amazonaws.com", 443)),
        ("s3://b/x", {"AWS_REGION": "eu-west-1"}, ("s3.eu-west-1.amazonaws.com", 443)),
        ("s3://b/x", {"S3_ENDPOINT": "minio:9000", "S3_USE_HTTPS": "0"}, ("minio", 9000)),
        ("s3://b/x", {"S3_ENDPOINT": "http://[::1]:9000"}, ("::1", 9000)),
        ("s3://b/x", {"https_proxy": "http://proxy:3128"}, None),
        ("http://host/x", {}, ("host", 80)),
        ("https://host:8443/x", {}, ("host", 8443)),
        ("gs://b/x", {}, None),
    ],
)
def test_the_server_that_will_be_asked(url, environment, server):
    assert server_of(RemotePath(url), environment) == server


def test_a_broken_endpoint_is_a_sentence():
    with pytest.raises(ConfigError, match="expected a server's address"):
        server_of(RemotePath("s3://b/x"), {"S3_ENDPOINT": "http://host:notaport"})
