"""What a listener and its routes both have to know: names that must be the same in what the listener is started with
and in what it is told later. Free of Envoy's contracts, which take long to import."""

from __future__ import annotations

NAMESPACE = "micro-namespace"
"""The header that names a namespace."""

NO_NAMESPACE = "-"
"""What the listeners put into it where the caller names none: a header that services can rely on."""

LIMITS = "envoy.filters.http.local_ratelimit"
"""The filter that counts requests."""

LIMITED = "namespaces"
"""Of its limits, in statistics."""

WHOLE = "whole"
"""The filter that waits for the end of small bodies. It is on where no route is found, and off where one says so."""

FOREIGN, UNKNOWN_HOST, NO_TOKEN = 418, 421, 423
"""Statuses that the routes give to what they refuse; the listener makes 403 or 401 and words of them."""
