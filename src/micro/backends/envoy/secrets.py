"""TLS on a listener: the certificate and its key in files that Envoy reads again whenever they are replaced."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from micro.ports import private_file

_TYPE = "type.googleapis.com/"
_SECRET = _TYPE + "envoy.extensions.transport_sockets.tls.v3.Secret"
_CERTIFICATE, _CLIENTS = "certificate", "clients"


@dataclass(frozen=True, slots=True)
class Files:
    """Where a listener's secrets lie, in Envoy's own format, in a folder that they share with nobody else's.

    Attributes:
        clients: authorities, one of which must have signed a client's certificate; None lets clients have none.
    """

    certificate: Path
    clients: Path | None = None


def write(files: Files, chain: str, key: str, clients: str = "") -> None:
    """Write the secrets, readable by their owner only; certificate and key change in one step.

    Args:
        chain, key, clients: PEM. The certificate comes first, then what leads to its authority.
    """
    made = {"certificate_chain": {"inline_string": chain}, "private_key": {"inline_string": key}}
    _write(files.certificate, {"name": _CERTIFICATE, "tls_certificate": made})
    if files.clients is not None:
        _write(files.clients, {"name": _CLIENTS, "validation_context": {"trusted_ca": {"inline_string": clients}}})


def transport_socket(files: Files) -> dict[str, Any]:
    """TLS 1.2 or newer, HTTP/2 where the client can."""
    common: dict[str, Any] = {
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_2", "tls_maximum_protocol_version": "TLSv1_3"},
        "alpn_protocols": ["h2", "http/1.1"],
        "tls_certificate_sds_secret_configs": [_watched(_CERTIFICATE, files.certificate)],
    }
    if files.clients is not None:
        common["validation_context_sds_secret_config"] = _watched(_CLIENTS, files.clients)
    return {
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": _TYPE + "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
            "require_client_certificate": files.clients is not None,
            "common_tls_context": common,
        },
    }


def _watched(name: str, file: Path) -> dict[str, Any]:
    source = {"path": str(file), "watched_directory": {"path": str(file.parent)}}
    return {"name": name, "sds_config": {"path_config_source": source, "resource_api_version": "V3"}}


def _write(file: Path, secret: dict[str, Any]) -> None:
    private_file.write(file, json.dumps({"resources": [{"@type": _SECRET, **secret}]}), durable=False)
