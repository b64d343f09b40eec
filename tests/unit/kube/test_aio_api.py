"""The real client against a server that plays answers of an API server, good and bad."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing

import pytest
from aiohttp import web
from kubernetes.aio.client.configuration import Configuration

from agent.base.errors import (
    ConfigurationError,
    KubeAlreadyExists,
    KubeConflict,
    KubeError,
    KubeForbidden,
    KubeGone,
    KubeNotFound,
    KubeUnavailable,
    KubeUnreadable,
)
from agent.kube.aio_api import AioKubeApi
from agent.kube.aio_transport import load_configuration
from agent.kube.api import AccessReview, EventType, WatchEvent
from agent.kube.meta import ConfigMap, Key, ObjectMeta
from agent.kube.resource import CONFIG_MAPS, PODS
from agent.kube.reviews import Identity
from agent.kube.selector import Selector

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Server:
    """Answers as `answer` says and keeps what it was asked."""

    def __init__(self) -> None:
        self.answer: Handler = self._nothing
        self.asked: list[tuple[str, str, dict[str, str], bytes, str]] = []

    async def _nothing(self, _: web.Request) -> web.StreamResponse:
        return web.json_response({})

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        self.asked.append((request.method, request.path, dict(request.query), body, request.content_type))
        return await self.answer(request)

    def says(self, value: object, status: int = 200, headers: dict[str, str] | None = None) -> None:
        async def answer(_: web.Request) -> web.StreamResponse:
            return web.json_response(value, status=status, headers=headers)

        self.answer = answer

    def streams(self, *lines: bytes, cut: bool = False) -> None:
        async def answer(request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse()
            response.enable_chunked_encoding()
            await response.prepare(request)
            for line in lines:
                await response.write(line)
            if cut:
                assert request.transport is not None
                request.transport.abort()
            return response

        self.answer = answer


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    yield Server()


@pytest.fixture
async def api(server: Server) -> AsyncIterator[AioKubeApi]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", server.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    configuration = Configuration(host=f"http://{host}:{port}")
    configuration.api_key["BearerToken"] = "bearer token"
    async with AioKubeApi(configuration, user_agent="test") as api:
        yield api
    await runner.cleanup()


def _config_map(name: str = "a", version: str = "7", **data: str) -> dict[str, object]:
    metadata = {"name": name, "namespace": "velero", "resourceVersion": version, "uid": "u"}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}


async def _watch(api: AioKubeApi) -> list[WatchEvent[ConfigMap]]:
    async with aclosing(api.watch(CONFIG_MAPS, "velero", resource_version="7", timeout=5)) as events:
        return [event async for event in events]


async def test_one_object_is_asked_for_by_its_path_and_read(server: Server, api: AioKubeApi) -> None:
    server.says(_config_map(k="v"))
    found = await api.get(CONFIG_MAPS, Key("velero", "a"))
    assert found.data == {"k": "v"}
    assert server.asked[0][:2] == ("GET", "/api/v1/namespaces/velero/configmaps/a")


async def test_items_of_a_list_get_the_kind_that_lists_leave_out(server: Server, api: AioKubeApi) -> None:
    item = {name: value for name, value in _config_map().items() if name in {"metadata", "data"}}
    broken = {"metadata": {"name": "b", "namespace": "velero"}, "data": 5}
    server.says(
        {"kind": "ConfigMapList", "metadata": {"resourceVersion": "9", "continue": "more"}, "items": [item, broken]}
    )
    selector = Selector(labels={"x": "y"}, has_labels=("z",), fields={"metadata.name": "a"})
    page = await api.list(CONFIG_MAPS, "velero", selector=selector, limit=2, continue_token="t")
    assert [view.kind for view in page.items] == ["ConfigMap"]
    assert [one.key for one in page.unreadable] == [Key("velero", "b")]
    assert (page.resource_version, page.continue_token) == ("9", "more")
    assert server.asked[0][2] == {
        "labelSelector": "x=y,z",
        "fieldSelector": "metadata.name=a",
        "limit": "2",
        "continue": "t",
    }


async def test_a_watch_tells_changes_and_bookmarks_and_ends_with_the_server(server: Server, api: AioKubeApi) -> None:
    lines = [
        {"type": "ADDED", "object": _config_map(version="8")},
        {"type": "BOOKMARK", "object": {"kind": "ConfigMap", "metadata": {"resourceVersion": "12"}}},
        {"type": "DELETED", "object": _config_map(version="13")},
    ]
    text = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    server.streams(text[:40], text[40:300], text[300:])
    events = await _watch(api)
    assert [(event.type, event.resource_version) for event in events] == [
        (EventType.ADDED, "8"),
        (EventType.BOOKMARK, "12"),
        (EventType.DELETED, "13"),
    ]
    assert events[1].item is None
    assert server.asked[0][2]["allowWatchBookmarks"] == "true"


async def test_a_watch_that_is_cut_in_a_line_ends_without_an_error(server: Server, api: AioKubeApi) -> None:
    whole = json.dumps({"type": "ADDED", "object": _config_map(version="8")}).encode()
    server.streams(whole + b"\n", whole[:30], cut=True)
    assert [event.resource_version for event in await _watch(api)] == ["8"]


async def test_a_version_that_is_too_old_is_gone_in_the_answer_and_in_the_stream(
    server: Server, api: AioKubeApi
) -> None:
    status = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version"}
    server.streams(json.dumps({"type": "ERROR", "object": status}).encode() + b"\n")
    with pytest.raises(KubeGone, match="too old"):
        await _watch(api)
    server.says(status, 410)
    with pytest.raises(KubeGone, match="too old"):
        await _watch(api)


@pytest.mark.parametrize(
    "line", [b"nonsense\n", b'{"type":"ADDED"}\n', b'{"type":"NEW","object":{}}\n', b'{"type":"ADDED","object":{}}\n']
)
async def test_an_event_that_is_none_is_named(server: Server, api: AioKubeApi, line: bytes) -> None:
    server.streams(line)
    with pytest.raises(KubeUnreadable, match="watch configmaps velero"):
        await _watch(api)


async def test_a_new_object_is_sent_without_defaults(server: Server, api: AioKubeApi) -> None:
    server.says(_config_map(), 201)
    new = ConfigMap(api_version="v1", kind="ConfigMap", metadata=ObjectMeta(name="a", namespace="velero"))
    assert (await api.create(CONFIG_MAPS, new)).metadata.uid == "u"
    method, path, _, body, _ = server.asked[0]
    assert (method, path) == ("POST", "/api/v1/namespaces/velero/configmaps")
    assert json.loads(body)["metadata"] == {"name": "a", "namespace": "velero"}


async def test_a_patch_is_a_merge_patch_onto_the_version_it_was_made_for(server: Server, api: AioKubeApi) -> None:
    server.says(_config_map())
    patch = {"metadata": {"labels": {"x": None}}, "data": {"k": "v"}}
    await api.patch(CONFIG_MAPS, Key("velero", "a"), patch, resource_version="7")
    method, path, _, body, content_type = server.asked[0]
    assert (method, path, content_type) == (
        "PATCH",
        "/api/v1/namespaces/velero/configmaps/a",
        "application/merge-patch+json",
    )
    assert json.loads(body) == {"metadata": {"labels": {"x": None}, "resourceVersion": "7"}, "data": {"k": "v"}}
    assert "resourceVersion" not in patch["metadata"]


async def test_the_status_of_a_kind_with_a_subresource_has_its_own_path(server: Server, api: AioKubeApi) -> None:
    server.says({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "n"}})
    await api.patch(PODS, Key("n", "p"), {"status": {"phase": "Running"}}, status=True)
    assert server.asked[0][1] == "/api/v1/namespaces/n/pods/p/status"


async def test_a_deletion_names_what_it_is_sure_of(server: Server, api: AioKubeApi) -> None:
    server.says({"kind": "Status", "status": "Success"})
    await api.delete(CONFIG_MAPS, Key("velero", "a"), uid="u", resource_version="7")
    assert json.loads(server.asked[0][3])["preconditions"] == {"uid": "u", "resourceVersion": "7"}


async def test_own_rights_are_asked_for(server: Server, api: AioKubeApi) -> None:
    server.says({"kind": "SelfSubjectAccessReview", "status": {"allowed": True}}, 201)
    assert await api.allowed(AccessReview("create", "", "pods", namespace="velero"))
    asked = json.loads(server.asked[0][3])
    assert asked["spec"]["resourceAttributes"] == {"verb": "create", "resource": "pods", "namespace": "velero"}
    server.says({"status": {"allowed": False}}, 201)
    assert not await api.allowed(AccessReview("create", "", "pods"))


async def test_it_is_asked_whose_a_token_is(server: Server, api: AioKubeApi) -> None:
    user = {"username": "alice", "uid": "u", "groups": ["g"], "extra": {"k": ["v"]}}
    server.says({"kind": "TokenReview", "status": {"authenticated": True, "user": user}}, 201)
    assert await api.authenticate("token") == Identity("alice", ("g",), "u")
    assert server.asked[0][1] == "/apis/authentication.k8s.io/v1/tokenreviews"
    assert json.loads(server.asked[0][3])["spec"] == {"token": "token"}
    server.says({"kind": "TokenReview", "status": {"error": "token has expired"}}, 201)
    assert await api.authenticate("token") is None


async def test_the_rights_of_somebody_are_asked_for(server: Server, api: AioKubeApi) -> None:
    server.says({"kind": "SubjectAccessReview", "status": {"allowed": True}}, 201)
    review = AccessReview("get", "control.lighterage.io", "snapshots", "velero", subresource="files")
    assert await api.may(Identity("alice", ("g",)), review)
    assert server.asked[0][1] == "/apis/authorization.k8s.io/v1/subjectaccessreviews"
    spec = json.loads(server.asked[0][3])["spec"]
    assert (spec["user"], spec["groups"]) == ("alice", ["g"])
    assert spec["resourceAttributes"]["subresource"] == "files"


@pytest.mark.parametrize(
    ("code", "reason", "error"),
    [
        (403, "Forbidden", KubeForbidden),
        (404, "NotFound", KubeNotFound),
        (409, "AlreadyExists", KubeAlreadyExists),
        (409, "Conflict", KubeConflict),
        (503, "ServiceUnavailable", KubeUnavailable),
    ],
)
async def test_refusals_have_their_names_and_say_what_was_asked(
    server: Server, api: AioKubeApi, code: int, reason: str, error: type[KubeError]
) -> None:
    server.says({"kind": "Status", "code": code, "reason": reason, "message": "so it is"}, code)
    with pytest.raises(error, match="get configmaps velero/a: so it is"):
        await api.get(CONFIG_MAPS, Key("velero", "a"))


async def test_a_server_that_asks_to_wait_is_heard(server: Server, api: AioKubeApi) -> None:
    server.says({"code": 429, "reason": "TooManyRequests"}, 429, {"Retry-After": "5"})
    with pytest.raises(KubeUnavailable) as caught:
        await api.get(CONFIG_MAPS, Key("velero", "a"))
    assert caught.value.retry_after == 5


async def test_an_answer_that_is_no_json_is_named(server: Server, api: AioKubeApi) -> None:
    async def html(_: web.Request) -> web.StreamResponse:
        return web.Response(text="<html>", content_type="text/html")

    server.answer = html
    with pytest.raises(KubeUnreadable, match="get configmaps velero/a"):
        await api.get(CONFIG_MAPS, Key("velero", "a"))


@pytest.mark.parametrize("name", ["..", "a/b", "", "a?watch=1", "A", "x" * 254])
async def test_a_name_that_no_object_can_have_is_never_sent(server: Server, api: AioKubeApi, name: str) -> None:
    for work in (api.get(CONFIG_MAPS, Key("velero", name)), api.delete(CONFIG_MAPS, Key("velero", name))):
        with pytest.raises(KubeNotFound, match="no object can have the name"):
            await work
    with pytest.raises(KubeNotFound, match="no namespace can have the name"):
        await api.list(CONFIG_MAPS, f"{name}/x")
    assert not server.asked


async def test_nobody_there_is_unavailable() -> None:
    async with AioKubeApi(Configuration(host="http://127.0.0.1:9"), user_agent="test") as api:
        with pytest.raises(KubeUnavailable, match="cannot be reached"):
            await api.get(CONFIG_MAPS, Key("velero", "a"))


async def test_a_canceled_watch_lets_go_of_its_connection(server: Server, api: AioKubeApi) -> None:
    asked = asyncio.Event()
    ended = asyncio.Event()

    async def hang(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        asked.set()
        try:
            while True:
                await response.write(b"\n")
                await asyncio.sleep(0.01)
        except (ConnectionError, asyncio.CancelledError):
            ended.set()
            raise

    server.answer = hang
    task = asyncio.create_task(_watch(api))
    await asked.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.wait_for(ended.wait(), 60)


async def test_without_a_service_account_the_way_is_explained() -> None:
    with pytest.raises(ConfigurationError, match="service account"):
        await load_configuration()
    with pytest.raises(ConfigurationError, match="no-such-file"):
        await load_configuration("/no-such-file")
