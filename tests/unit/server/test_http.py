"""The HTTP endpoints, over real loopback."""

import aiohttp
import pytest

from agent.base.errors import UsageError
from agent.observe.families import CONTENT_TYPE
from agent.observe.metrics import Metrics
from agent.server.http import Address, Endpoints, parse_address, serve
from agent.testing.clock import VirtualClock

LOOPBACK = Address("127.0.0.1", 0)


def endpoints(metrics=lambda: b"", unhealthy=lambda: "", unready=lambda: ""):
    return Endpoints(metrics=metrics, unhealthy=unhealthy, unready=unready)


async def ask(where, path, method="GET"):
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, f"http://{where.host}:{where.port}{path}") as answer,
    ):
        return answer.status, await answer.text(), answer.headers


async def test_a_scraper_gets_every_metric():
    metrics = Metrics("node-a", VirtualClock())
    async with serve(LOOPBACK, endpoints(metrics.render)) as where:
        assert where.port > 0
        status, text, headers = await ask(where, "/metrics")
    assert status == 200 and headers["Content-Type"] == CONTENT_TYPE
    assert 'podVolume_data_upload_success_total{node="node-a"} 0.0' in text


async def test_health_and_readiness_say_why_not():
    trouble = {"health": "", "ready": "datauploads were not listed yet"}
    asked = endpoints(unhealthy=lambda: trouble["health"], unready=lambda: trouble["ready"])
    async with serve(LOOPBACK, asked) as where:
        assert (await ask(where, "/healthz"))[:2] == (200, "ok\n")
        assert (await ask(where, "/readyz"))[:2] == (503, "datauploads were not listed yet\n")
        trouble.update(health="the informer of pods is stuck", ready="")
        assert (await ask(where, "/healthz"))[:2] == (503, "the informer of pods is stuck\n")
        assert (await ask(where, "/readyz"))[:2] == (200, "ok\n")


async def test_a_question_that_fails_is_answered_and_so_is_the_next():
    def broken():
        raise RuntimeError("with details that are nobody's business")

    async with serve(LOOPBACK, endpoints(metrics=broken, unhealthy=broken)) as where:
        for path in ("/metrics", "/healthz"):
            status, text, _ = await ask(where, path)
            assert status == 500 and "details" not in text
        assert (await ask(where, "/readyz"))[0] == 200


async def test_everything_else_is_not_found_or_not_allowed():
    async with serve(LOOPBACK, endpoints()) as where:
        assert (await ask(where, "/"))[0] == 404
        assert (await ask(where, "/debug/pprof"))[0] == 404
        assert (await ask(where, "/metrics", "POST"))[0] == 405


async def test_a_port_that_is_taken_is_told():
    async with serve(LOOPBACK, endpoints()) as where:
        with pytest.raises(UsageError, match="cannot listen at"):
            async with serve(Address(where.host, where.port), endpoints()):
                pass


async def test_the_port_is_free_when_the_block_ends():
    async with serve(LOOPBACK, endpoints()) as where:
        pass
    async with serve(Address(where.host, where.port), endpoints()) as again:
        assert again == where


@pytest.mark.parametrize(
    ("text", "address"),
    [
        (":8085", Address("", 8085)),
        ("127.0.0.1:0", Address("127.0.0.1", 0)),
        ("0.0.0.0:8085", Address("0.0.0.0", 8085)),  # noqa: S104
        ("[::]:8085", Address("::", 8085)),
        ("[fe80::1%eth0]:80", Address("fe80::1%eth0", 80)),
        ("localhost:9", Address("localhost", 9)),
    ],
)
def test_addresses_are_written_as_in_go(text, address):
    assert parse_address(text) == address


@pytest.mark.parametrize("text", ["", "8085", "localhost", ":", ":x", ":99999", "::1:80", "[::1]", "a:b:1", ":-1"])
def test_what_is_no_address_is_refused(text):
    with pytest.raises(UsageError, match="address"):
        parse_address(text)
