"""Which web pages may call the HTTP gateway: none, unless they are named."""

from gateway_world import registration, world

OURS, THEIRS = "https://app.example", "https://evil.example"


def preflight(origin):
    asked = {"access-control-request-method": "POST", "access-control-request-headers": "content-type"}
    return {"origin": origin, **asked}


async def test_a_named_origin_may_call_with_cookies_and_no_other_may(tmp_path):
    async with world(tmp_path, "api", origins=(OURS,)) as made:
        await made.routed([registration("hello", await made.instance("one"))])
        status, _, headers = await made.get("api", "/hello/call", preflight(OURS), "OPTIONS")
        assert (status, headers["access-control-allow-origin"]) == (200, OURS)
        assert headers["access-control-allow-credentials"] == "true"
        _, told, headers = await made.get("api", "/hello/call", {"origin": OURS})
        assert (told["instance"], headers["access-control-allow-origin"]) == ("one", OURS)
        for sent, method in ((preflight(THEIRS), "OPTIONS"), ({"origin": THEIRS}, "GET"), ({"origin": "null"}, "GET")):
            _, _, headers = await made.get("api", "/hello/call", sent, method)
            assert not [name for name in headers if name.startswith("access-control-")]


async def test_by_default_no_page_may(tmp_path):
    async with world(tmp_path, "api") as made:
        await made.routed([registration("hello", await made.instance("one"))])
        for sent, method in ((preflight(OURS), "OPTIONS"), ({"origin": OURS}, "GET")):
            status, _, headers = await made.get("api", "/hello/call", sent, method)
            assert status == 200, "the service answers; the browser keeps it from the page"
            assert not [name for name in headers if name.startswith("access-control-")]
