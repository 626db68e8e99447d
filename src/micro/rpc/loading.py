"""The author's application, as the server imports it: what is wrong with it is told in terms of their code."""

from __future__ import annotations

import gc
import importlib
import inspect
import os
import sys
import traceback
from pathlib import Path
from typing import Any, NoReturn

NAMED_BY = "MICRO_APP"
"""Environment variable: "module:attribute"."""

_YOUNG = 50_000
"""Objects made while all is imported between two looks for garbage, of which there is next to none. With the usual 700
the looking is a sixth of a start."""

_FIX = 'end it with {} = Service("name", Handler())'


class UnfitError(Exception):
    """A module that holds no application."""


def load(name: str) -> Any:
    """The application of a name as "main:app".

    Raises:
        UnfitError: the module defines no such thing, or it is no ASGI application.
        BaseException: whatever the module raises while it is imported.
    """
    module, _, attribute = name.partition(":")
    found = importlib.import_module(module)
    file = Path(found.__file__ or module).name
    if not hasattr(found, attribute):
        raise UnfitError(f"{file} defines no {attribute}: {_FIX.format(attribute)}")
    app = getattr(found, attribute)
    if fault := _fault(app):
        raise UnfitError(f"{attribute} in {file} is {fault}, not an ASGI application: {_FIX.format(attribute)}")
    return app


def _fault(app: object) -> str:
    if inspect.isclass(app):
        return f"the class {app.__name__}"
    if not callable(app):
        return f"of type {type(app).__name__}"
    try:
        inspect.signature(app).bind(None, None, None)
    except TypeError:
        return "a function of other arguments than scope, receive and send"
    except ValueError:
        pass  # a built-in function tells nothing
    return ""


def explain(error: BaseException, folder: str) -> str:
    """What to tell the author: one line where that says all, else the traceback with the frames of their own code."""
    if isinstance(error, UnfitError):
        return f"micro: {error}\n"
    whole = traceback.TracebackException.from_exception(error)
    chain: list[traceback.TracebackException] = [whole]
    for link in chain:
        own = [frame for frame in link.stack if _own(frame.filename, folder)]
        link.stack = traceback.StackSummary.from_list(own)
        chain += [cause for cause in (link.__cause__, link.__context__) if cause is not None]
    return "".join(whole.format())


def _own(file: str, folder: str) -> bool:
    return file.startswith(folder.rstrip("/") + "/") and "/site-packages/" not in file


def _import() -> Any:
    usual = gc.get_threshold()
    gc.set_threshold(_YOUNG, *usual[1:])
    try:
        return load(os.environ[NAMED_BY])
    except BaseException as error:  # noqa: BLE001 - whatever it is, the author is told
        _end(explain(error, os.environ["PYTHONPATH"].partition(os.pathsep)[0]))
    finally:
        gc.set_threshold(*usual)


def _end(told: str) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.write(told)
    sys.stderr.flush()
    # The server that imports this would add what it thinks of it. Nothing runs yet that could be ended in order.
    os._exit(1)


if NAMED_BY in os.environ:
    app = _import()
