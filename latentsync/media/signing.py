"""C2PA manifests, which say under a signature how a file was made and what from, by the optional package `c2pa-python`.

The manifest of a result names its source as parent ingredient, and the edit with the IPTC digital source type of its mark. A
file of settings names the user's own certificate and key. Nothing is fetched, except the time stamp if a server for it is named.
"""

import io
import json
import mimetypes
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from latentsync import __version__
from latentsync.media.container import MediaError, PathLike
from latentsync.media.mark import COMPOSITE
from latentsync.media.video.mux import atomic_output

FORMATS = {".mp4": "video/mp4", ".mov": "video/quicktime"}  # of outputs, those in which there can be a manifest
SETTINGS = ("certificate", "key", "timestamp_url")
OFFLINE = {"verify": {"remote_manifest_fetch": False, "ocsp_fetch": False}}
UNTRUSTED = "signingCredential.untrusted"  # the certificate is on no list of trust that was given
PAGE = "see docs/provenance.md"
AGENT = {"name": "LatentSync", "version": __version__}


@dataclass(frozen=True)
class SigningFiles:
    """Whose signature: the file of settings, and what it names."""

    settings: Path
    certificate: Path  # PEM: the signer's certificate, then those between it and the root
    key: Path  # PEM, without a passphrase
    algorithm: str  # C2PA's name, by the kind of key
    timestamp_url: str | None


@dataclass(frozen=True)
class Manifest:
    """What the C2PA manifest of a file says, and whether it holds."""

    state: str  # Trusted, Valid (the signer is on no list of trust that was given), or Invalid
    signer: str
    generator: str
    actions: tuple[str, ...]
    digital_source_types: tuple[str, ...]
    ingredients: tuple[str, ...]
    problems: tuple[str, ...]  # why it is invalid


def open_signing(path: Path) -> SigningFiles:
    """Read a file of settings for signing: JSON with `certificate`, `key`, `timestamp_url`. Signs something small for a trial.

    Raises ModuleNotFoundError if c2pa-python is not installed, ValueError if anything in the files is wrong.
    """
    import c2pa

    content = _content(path)
    certificate, key = (path.parent / content[name] for name in SETTINGS[:2])
    files = SigningFiles(path, certificate, key, _algorithm(path, certificate, key), content.get("timestamp_url"))
    picture = io.BytesIO()
    Image.new("RGB", (8, 8)).save(picture, "png")
    try:
        with c2pa.Builder({}, context=_context()) as builder, _signer(files, with_time=False) as signer:
            builder.set_intent(c2pa.C2paBuilderIntent.EDIT)
            builder.sign(signer, "image/png", picture, io.BytesIO())
    except c2pa.C2paError as error:
        raise ValueError(
            f"{path}: C2PA does not accept the certificate {certificate.name} ({error}): it needs one for signing, with"
            f" those between it and its root, {PAGE}."
        ) from error
    return files


def check_signed(output: Path) -> None:
    """Raise MediaError for an output that can hold no manifest."""
    if output.suffix.lower() not in FORMATS:
        raise MediaError(
            f"cannot sign {output}: C2PA manifests are in {' and '.join(FORMATS)} files. Use one of these endings, or leave out"
            " --provenance."
        )


def sign(unsigned: Path, output: Path, source: Path, files: SigningFiles) -> None:
    """Write the finished file `unsigned` to `output` with a signed manifest, whose ingredient is `source`.

    Raises MediaError if it cannot be signed or written.
    """
    import c2pa

    edited = {"action": "c2pa.edited", "digitalSourceType": COMPOSITE, "softwareAgent": AGENT}
    manifest = {
        "title": output.name,
        "claim_generator_info": [AGENT],
        "assertions": [{"label": "c2pa.actions.v2", "data": {"actions": [edited]}}],
    }
    ingredient = {"title": source.name, "relationship": "parentOf"}
    kind = mimetypes.guess_type(source.name)[0] or "application/octet-stream"
    try:
        with c2pa.Builder(manifest, context=_context()) as builder, _signer(files) as signer:
            builder.set_intent(c2pa.C2paBuilderIntent.EDIT)  # the parent is opened, then edited
            with source.open("rb") as file:
                builder.add_ingredient(ingredient, kind, file)
            with atomic_output(output) as partial, unsigned.open("rb") as file, partial.open("w+b") as signed:
                builder.sign(signer, FORMATS[output.suffix.lower()], file, signed)
    except c2pa.C2paError as error:
        raise MediaError(
            f"cannot sign {output}: {error}. Check {files.settings}, or leave out --provenance."
        ) from error


def read_manifest(path: PathLike, trusted: Path | None = None) -> Manifest | None:
    """The manifest of a file, checked against its content; None without one, also in formats that have none.

    `trusted`: a PEM file of certificates that are trusted.

    Raises ModuleNotFoundError if c2pa-python is not installed, MediaError if the file cannot be read.
    """
    import c2pa

    try:
        with (
            Path(path).open("rb") as file,
            _context(trusted) as context,
            c2pa.Reader(mimetypes.guess_type(str(path))[0], file, context=context) as reader,
        ):
            return _manifest(json.loads(reader.json()), str(reader.get_validation_state()))
    except (c2pa.C2paError.ManifestNotFound, c2pa.C2paError.NotSupported):
        return None
    except c2pa.C2paError as error:
        raise MediaError(f"cannot read the manifest of {path}: {error}. Is the file complete?") from error


def _manifest(store: Mapping[str, Any], state: str) -> Manifest:
    active: Mapping[str, Any] = store["manifests"][store["active_manifest"]]
    lists = [
        each["data"].get("actions", ()) for each in active["assertions"] if each["label"].startswith("c2pa.actions")
    ]
    actions = [action for each in lists for action in each]
    signature, generators = active.get("signature_info", {}), active.get("claim_generator_info") or [{}]
    problems = [each for each in store.get("validation_status", ()) if each["code"] != UNTRUSTED]
    return Manifest(
        state,
        " of ".join(filter(None, (signature.get("common_name"), signature.get("issuer")))),
        " ".join(filter(None, (generators[0].get("name"), generators[0].get("version")))),
        tuple(action["action"] for action in actions),
        tuple(dict.fromkeys(action["digitalSourceType"] for action in actions if "digitalSourceType" in action)),
        tuple(each.get("title", "unnamed") for each in active.get("ingredients", ())),
        tuple(each.get("explanation", each["code"]) for each in problems),
    )


def _context(trusted: Path | None = None) -> Any:
    import c2pa

    trust: dict[str, Any] = {} if trusted is None else {"trust": {"trust_anchors": trusted.read_text(encoding="utf-8")}}
    return c2pa.Context.from_dict({"builder": {"thumbnail": {"enabled": False}}, **OFFLINE, **trust})


def _signer(files: SigningFiles, with_time: bool = True) -> Any:
    import c2pa

    url = files.timestamp_url if with_time else None
    return c2pa.Signer.from_info(
        c2pa.C2paSignerInfo(files.algorithm, files.certificate.read_bytes(), files.key.read_bytes(), url)
    )


def _content(path: Path) -> dict[str, str]:
    """The settings of a file, all of them text."""
    form = f'give {{"certificate": "chain.pem", "key": "key.pem"}}, {PAGE}'
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no readable file of settings for signing ({error}): {form}.") from error
    if not isinstance(content, dict) or any(name not in SETTINGS for name in content):
        raise ValueError(f"{path}: known settings are {', '.join(SETTINGS)}: {form}.")
    for name in SETTINGS[:2]:
        if not isinstance(content.get(name), str):
            raise ValueError(f"{path}: {name} is missing: {form}.")
        if not (path.parent / content[name]).is_file():
            raise ValueError(f"{path}: the {name} {path.parent / content[name]} does not exist: {form}.")
    if not isinstance(content.get("timestamp_url", ""), str):
        raise ValueError(f"{path}: timestamp_url is no address: {form}.")
    return content


def _algorithm(path: Path, certificate: Path, key: Path) -> str:
    """The algorithm for the key of a certificate. Raises ValueError if a file cannot be read, or the key is another one's."""
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        public = x509.load_pem_x509_certificates(certificate.read_bytes())[0].public_key()
    except (OSError, ValueError, IndexError) as error:
        raise ValueError(f"{path}: {certificate.name} holds no certificate in PEM: {PAGE}.") from error
    try:
        private: Any = load_pem_private_key(key.read_bytes(), None)
    except (OSError, ValueError, TypeError):  # without the cause, which might show the key
        raise ValueError(f"{path}: {key.name} holds no private key in PEM without a passphrase: {PAGE}.") from None
    if private.public_key() != public:
        raise ValueError(f"{path}: the key {key.name} is not that of the certificate {certificate.name}: give its own.")
    if isinstance(public, ec.EllipticCurvePublicKey) and public.curve.key_size in (256, 384, 521):
        return f"es{min(public.curve.key_size, 512)}"
    if isinstance(public, ed25519.Ed25519PublicKey):
        return "ed25519"
    if isinstance(public, rsa.RSAPublicKey):
        return "ps256"
    raise ValueError(f"{path}: C2PA has no signatures of the kind of {key.name}: give a key of ECDSA, Ed25519 or RSA.")
