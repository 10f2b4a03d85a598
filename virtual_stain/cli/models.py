"""`vstain models verify`, `vstain models sign` and `vstain models keygen`."""

from __future__ import annotations

from pathlib import Path

import click

from virtual_stain.cli.common import Common, common_options


@click.group("models")
def command() -> None:
    """Verify, sign and register model bundles.

    \b
    vstain models verify models/ki67 --public-key lab.pem.pub
    vstain models keygen --out lab.pem
    vstain models sign models/ki67 --key lab.pem
    """


@command.command("verify")
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--public-key", type=click.Path(path_type=Path), help="The key it must be signed with (KEY.pem.pub).")
@click.option("--registry", type=click.Path(path_type=Path), help="Registry [default: MODEL/registry.jsonl, if any].")
@click.option("--head", help="What the registry must end with: its head as noted elsewhere (16 digits or all 64).")
@click.option("--all", "all_versions", is_flag=True, help="Every version, not only the newest.")
@common_options
def verify(
    model: Path, public_key: Path | None, registry: Path | None, head: str | None, all_versions: bool, common: Common
) -> None:
    """Check every file's sha256, the signature and the registry; nothing of the model is loaded.

    \b
    vstain models verify models/ki67
    vstain models verify models/ki67 --public-key lab.pem.pub --head 5a0c…
    """
    from virtual_stain.exporting.signing import load_public_key
    from virtual_stain.workflows.verify_models import check_model, models_below

    trusted = None if public_key is None else load_public_key(public_key)
    for folder in models_below(model, all_versions=all_versions):
        for line in check_model(folder, trusted=trusted, registry=registry, head=head).lines():
            click.echo(line)


@command.command("sign")
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--key", required=True, type=click.Path(path_type=Path), help="Private key, PEM (vstain models keygen).")
@click.option("--registry", type=click.Path(path_type=Path), help="Registry [default: MODEL/registry.jsonl].")
@common_options
def sign(model: Path, key: Path, registry: Path | None, common: Common) -> None:
    """Sign a bundle that is there already and add it to the registry; a second time changes nothing.

    \b
    vstain models sign models/ki67 --key lab.pem
    """
    from virtual_stain.exporting.signing import load_signing_key
    from virtual_stain.workflows.verify_models import sign_model

    head = sign_model(model, load_signing_key(key), registry)
    click.echo(f"{model}: signed and registered. Note the registry's head elsewhere: {head}")


@command.command("keygen")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Private key; the public one is OUT.pub.")
@common_options
def keygen(out: Path, common: Common) -> None:
    """Make a pair of Ed25519 keys: keep OUT to yourself, give OUT.pub to those who should trust you.

    \b
    vstain models keygen --out lab.pem
    """
    from virtual_stain.exporting.signing import create_key

    click.echo(f"{out}: private key. {out}.pub: public key, fingerprint {create_key(out).fingerprint}")
