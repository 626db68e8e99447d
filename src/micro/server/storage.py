"""What a home remembers of the store that it uses: kept outside of it, so that another one is not taken for it.

The URL of a store that is elsewhere may hold a password, and is needed once more when everything moves on from there.
It is kept sealed, with the key of the secrets.
"""

from __future__ import annotations

import base64
import json
from dataclasses import asdict, dataclass

from micro.domain import errors
from micro.domain.names import DEFAULT_NAMESPACE
from micro.ports import private_file
from micro.ports.sealing import DataKey, Sealing
from micro.server.settings import Layout, Settings

_SEALED_AS = "MICRO_STORE"


@dataclass(frozen=True, slots=True)
class Used:
    """A store."""

    id: str
    """Drawn by lot when the home began to use it. The store holds it too, and is known by it, whatever it is called."""

    place: str
    """Where it is, without what opens it."""

    begun: bool = True
    """Whether the store holds the id already."""

    following: str = ""
    """The id of the store that all is being moved to, which takes this one's place when it holds its id."""

    foreign_code: bool = False
    """Whether there may be code below the home that is of another store's services, and must not go for want of a
    record here."""


def read(layout: Layout) -> Used | None:
    """None for a home that has not used any yet. Raises DATA_LOSS for a file that is none of ours."""
    try:
        return Used(**json.loads(layout.storage.read_text("utf-8")))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError):
        raise errors.data_loss(
            f"{layout.storage} does not hold what it should: put back the backup's, or remove it and start with "
            "--adopt-store, and with the MICRO_STORE that was used last"
        ) from None


def write(layout: Layout, used: Used) -> None:
    """Remember it. Raises OSError."""
    private_file.write(layout.storage, json.dumps(asdict(used)) + "\n")


def keep_url(layout: Layout, settings: Settings, sealing: Sealing) -> None:
    """Remember how to get to the store that is used, unless it is memory. Raises OSError, and what `Sealing` does."""
    if settings.store == "sqlite":
        layout.store_url.unlink(missing_ok=True)
    elif settings.store != "memory":
        key = sealing.create(DEFAULT_NAMESPACE)
        sealed = sealing.seal(DEFAULT_NAMESPACE, key, _SEALED_AS, settings.store)
        found = {"id": key.id, "wrapped_by": key.wrapped_by, "wrapped": base64.b64encode(key.wrapped).decode()}
        private_file.write(layout.store_url, json.dumps({**found, "sealed": sealed}) + "\n")


def url(layout: Layout, sealing: Sealing) -> str:
    """The URL that was kept last; empty where there is none, or the key is another one by now."""
    try:
        found = json.loads(layout.store_url.read_text("utf-8"))
        key = DataKey(found["id"], found["wrapped_by"], base64.b64decode(found["wrapped"]))
        return sealing.open(DEFAULT_NAMESPACE, key, _SEALED_AS, found["sealed"])
    except (OSError, ValueError, TypeError, KeyError, errors.Error):
        return ""


def foreign_code(settings: Settings, layout: Layout) -> bool:
    """`Used.foreign_code`; what is in memory alone has a folder of its own."""
    used = None if settings.store == "memory" else read(layout)
    return used is not None and used.foreign_code
