"""Signatures of bundles and the registry whose lines hold each other."""

import dataclasses
import json
import stat

import pytest

from tests.fixtures.models import tiny_card
from virtual_stain.cli.main import _run
from virtual_stain.errors import InputError, OutputError, VerificationError
from virtual_stain.exporting.bundle import verify_bundle, write_bundle_json
from virtual_stain.exporting.card import model_name
from virtual_stain.exporting.registry import append, read_registry
from virtual_stain.exporting.signing import (
    create_key,
    load_public_key,
    load_signing_key,
    require_signer,
    sign_bundle,
    signer_of,
)
from virtual_stain.workflows.verify_models import check_model, sign_model


def _bundle(model, version):
    folder = model / str(version)
    folder.mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(b"graph %d" % version)
    write_bundle_json(folder, dataclasses.replace(tiny_card(), name=model_name(model), version=version))
    return folder


@pytest.fixture
def model(tmp_path):
    _bundle(tmp_path / "mödel 1", 1)
    _bundle(tmp_path / "mödel 1", 2)
    return tmp_path / "mödel 1"


@pytest.fixture
def key_file(tmp_path):
    create_key(tmp_path / "lab.pem")
    return tmp_path / "lab.pem"


def test_a_private_key_is_for_its_owner_and_never_overwritten(key_file):
    assert stat.S_IMODE(key_file.stat().st_mode) == 0o600
    before = key_file.read_bytes()
    with pytest.raises(OutputError, match="never overwritten"):
        create_key(key_file)
    assert key_file.read_bytes() == before
    assert load_signing_key(key_file).public == load_public_key(key_file.with_name("lab.pem.pub"))


def test_a_signed_bundle_still_verifies_and_names_its_signer(model, key_file):
    key = load_signing_key(key_file)
    assert signer_of(model / "2") is None
    sign_bundle(model / "2", key)
    assert verify_bundle(model).card.version == 2
    assert signer_of(model / "2") == key.public
    require_signer(model / "2", key.public)


@pytest.mark.parametrize("change", ["card", "signature", "key", "algorithm", "not base64", "other bundle"])
def test_whatever_was_changed_the_signature_does_not_fit(model, key_file, tmp_path, change):
    folder, signature = model / "2", model / "2" / "bundle.sig"
    sign_bundle(folder, load_signing_key(key_file))
    value = json.loads(signature.read_text())
    create_key(tmp_path / "other.pem")
    if change == "card":
        write_bundle_json(folder, dataclasses.replace(tiny_card(), version=2, min_tumour_cells=5.0))
    elif change == "signature":
        value["signature"] = "A" * 86 + "=="
    elif change == "key":
        value["public_key"] = load_signing_key(tmp_path / "other.pem").public.text
    elif change == "algorithm":
        value["algorithm"] = "none"
    elif change == "not base64":
        value["signature"] = "ü"
    else:
        sign_bundle(model / "1", load_signing_key(key_file))
        value = json.loads((model / "1" / "bundle.sig").read_text())
    signature.write_text(json.dumps(value))
    with pytest.raises(VerificationError, match=r"bundle\.(sig|json)"):
        signer_of(folder)
    with pytest.raises(VerificationError):
        check_model(folder)


def test_unsigned_and_foreign_bundles_are_refused_where_a_key_is_trusted(model, key_file, tmp_path):
    trusted = load_signing_key(key_file).public
    with pytest.raises(VerificationError, match="Received: no signature"):
        check_model(model, trusted=trusted)
    create_key(tmp_path / "other.pem")
    sign_model(model, load_signing_key(tmp_path / "other.pem"))
    with pytest.raises(VerificationError, match=f"signed with the key {trusted.fingerprint}"):
        check_model(model, trusted=trusted)
    with pytest.raises(VerificationError, match="signed already"):
        sign_model(model, load_signing_key(key_file))


def test_files_that_are_no_keys_are_refused_by_name(tmp_path, key_file):
    (tmp_path / "text.pem").write_text("-----BEGIN NOTHING-----")
    with pytest.raises(InputError, match=r"text\.pem: expected an unencrypted private key"):
        load_signing_key(tmp_path / "text.pem")
    with pytest.raises(InputError, match=r"lab\.pem: expected an unencrypted public key"):
        load_public_key(key_file)
    with pytest.raises(InputError, match="cannot be read"):
        load_public_key(tmp_path / "none.pub")


def test_the_registry_knows_every_version_once(model, key_file):
    key = load_signing_key(key_file)
    first = sign_model(model / "1", key)
    second = sign_model(model / "2", key)
    assert sign_model(model / "2", key) == second != first
    chain = read_registry(model / "registry.jsonl", head=second[:16])
    assert [(e.version, e.signer) for e in chain.entries] == [(1, key.public), (2, key.public)]
    checked = check_model(model, trusted=key.public, head=second)
    assert checked.trusted
    assert checked.head == second


@pytest.mark.parametrize("change", ["edit", "remove first", "swap", "cut off", "remove last", "unsign", "spaces"])
def test_whatever_was_done_to_the_registry_shows(model, key_file, change):
    for version in (1, 2):
        head = sign_model(model / str(version), load_signing_key(key_file))
    path = model / "registry.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    if change == "edit":
        lines[0] = lines[0].replace(b'"version":1', b'"version":3')
    elif change == "remove first":
        del lines[0]
    elif change == "swap":
        lines.reverse()
    elif change == "cut off":
        lines[1] = lines[1][:-20]
    elif change == "remove last":
        del lines[1]
    elif change == "unsign":
        lines[1] = lines[1].split(b',"public_key"')[0] + b"}\n"
    else:
        lines[1] = lines[1].replace(b'":', b'": ')
    path.write_bytes(b"".join(lines))
    with pytest.raises(VerificationError, match=r"registry\.jsonl"):
        read_registry(path, head)
    if change not in ("remove last", "unsign"):  # these two the chain alone cannot show: what the head is for
        with pytest.raises(VerificationError):
            read_registry(path)


def test_nothing_is_added_to_a_registry_that_was_tampered_with(model, key_file):
    path = model / "registry.jsonl"
    sign_model(model / "1", load_signing_key(key_file))
    path.write_bytes(path.read_bytes().replace(b'"version":1', b'"version":7'))
    before = path.read_bytes()
    with pytest.raises(VerificationError):
        append(path, verify_bundle(model), None)
    assert path.read_bytes() == before


def test_the_commands_and_their_exit_codes(model, tmp_path, capsys):
    key = str(tmp_path / "lab 1.pem")
    assert _run(["models", "verify", str(model)]) == 0
    assert "signed      no" in capsys.readouterr().out
    assert _run(["models", "keygen", "--out", key]) == 0
    assert _run(["models", "sign", str(model), "--key", key]) == 0
    head = capsys.readouterr().out.split()[-1]
    trusted = ["--public-key", f"{key}.pub", "--head", head]
    assert _run(["models", "verify", str(model), *trusted]) == 0
    assert "by the trusted key" in capsys.readouterr().out
    assert _run(["models", "verify", str(model), "--all", *trusted]) == 3  # version 1 is not signed
    assert _run(["models", "verify", str(model / "1")]) == 3  # there is a registry, and it does not know version 1
    assert "expected an entry of m_del_1 version 1" in capsys.readouterr().err
    (model / "2" / "saved_model.pb").write_bytes(b"another")
    assert _run(["models", "verify", str(model)]) == 3
    assert _run(["models", "verify", str(tmp_path)]) == 5
