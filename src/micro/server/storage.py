"""What a home remembers of the store that it uses: kept outside of it, so that another one is not taken for it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from micro.domain import errors
from micro.ports import private_file
from micro.server.settings import Layout, Settings


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


def foreign_code(settings: Settings, layout: Layout) -> bool:
    """`Used.foreign_code`; what is in memory alone has a folder of its own."""
    used = None if settings.store == "memory" else read(layout)
    return used is not None and used.foreign_code
