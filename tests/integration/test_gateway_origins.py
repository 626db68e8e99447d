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
        _, told, headers = await made.get("api", "/hello/call", {"origin": OURS, "sec-fetch-site": "cross-site"})
        assert (told["instance"], headers["access-control-allow-origin"]) == ("one", OURS)
        for sent, method in ((preflight(THEIRS), "OPTIONS"), ({"origin": THEIRS}, "GET"), ({"origin": "null"}, "GET")):
            status, told, headers = await made.get("api", "/hello/call", sent, method)
            assert (status, told["code"]) == (403, "permission_denied")
            assert not [name for name in headers if name.startswith("access-control-")]


async def test_what_a_foreign_page_sends_reaches_no_service(tmp_path):
    async with world(tmp_path, "api", base_domain="apps.example") as made:
        await made.routed([registration("hello", await made.instance("one"))])
        port = made.ports["api"]

        async def status(method="GET", path="/hello/call", **headers):
            sent = {name.replace("_", "-"): value for name, value in headers.items()}
            found, told, _ = await made.get("api", path, sent, method)
            assert found == 200 or told["code"] == "permission_denied"
            return found

        # Scripts and forms name the origin; images, links and frames say that they cross sites.
        assert await status("POST", origin=THEIRS) == 403
        assert await status("POST", origin=THEIRS, sec_fetch_site="cross-site", sec_fetch_mode="no-cors") == 403
        assert await status("POST", origin="null") == 403
        assert await status("POST", origin="http://localhost:3000", sec_fetch_site="same-site") == 403
        assert await status("POST", origin="chrome-extension://abc") == 403
        assert await status(sec_fetch_site="cross-site", sec_fetch_mode="no-cors") == 403
        assert await status(sec_fetch_site="cross-site", sec_fetch_mode="navigate") == 403, "a link may do things too"
        # A page whose name was made to point here.
        assert await status(host=f"evil.example:{port}", origin=f"http://evil.example:{port}") == 403
        assert await status(host=f"evil.example:{port}") == 403
        assert await status(host="localhost.evil.example") == 403
        assert await status(host="127.0.0.1.evil.example") == 403


async def test_a_foreign_page_finds_no_way_around_the_gateway(tmp_path):
    async with world(tmp_path, "proxy", "mesh") as made:
        await made.routed([registration("hello", await made.instance("one"))])
        for gateway in ("proxy", "mesh"):
            path, named = "/hello.Hello/Call", {"micro-service": "hello"}
            assert (await made.get(gateway, path, named))[0] == 200
            for page in ({"origin": THEIRS}, {"origin": "null"}, {"sec-fetch-site": "cross-site"}):
                assert (await made.get(gateway, path, named | page))[0] == 403
                assert (await made.get(gateway, path, named | page, "POST"))[0] == 403
        assert (await made.get("proxy", "/hello.Hello/Call", {"host": "evil.example:8081"}))[0] == 403


async def test_people_and_programs_are_answered(tmp_path):
    async with world(tmp_path, "api", base_domain="apps.example") as made:
        await made.routed([registration("hello", await made.instance("one"))])
        port = made.ports["api"]
        for sent in (
            {},
            {"sec-fetch-site": "none", "sec-fetch-mode": "navigate"},
            {"sec-fetch-site": "same-origin", "sec-fetch-mode": "cors"},
            {"origin": f"http://127.0.0.1:{port}"},
            {"origin": f"http://localhost:{port}"},
            {"origin": "https://micro.apps.example"},
            {"origin": "whatever", "host": "localhost"},
            {"host": "[::1]:80"},
            {"host": "gateway:8080"},
            {"host": "dev.localhost"},
            {"host": "apps.example"},
            {"host": "micro.apps.example:443"},
        ):
            status, told, _ = await made.get("api", "/hello/call", sent)
            assert status == 200, (sent, told)
        foreign = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
        assert (await made.get("api", "/", foreign))[0] == 200, "nothing is called there"
