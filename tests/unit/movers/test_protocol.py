"""Messages survive the way in any pieces; whatever else comes is refused by name and in bounded memory."""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.base import errors
from agent.movers.failure import MAX_TEXT, Redactor, describe, rebuild
from agent.movers.output import OutputLines
from agent.movers.protocol import (
    MAX_FRAME,
    VERSION,
    Cancel,
    Finished,
    FrameReader,
    Log,
    Metric,
    Report,
    SetLimits,
    Start,
    encode_frame,
    from_worker,
    to_worker,
)
from agent.movers.spawner import worker_environment
from agent.movers.spec import (
    BackupBlock,
    BackupResult,
    BackupTree,
    GivenParent,
    JobError,
    JobSpec,
    NewestParent,
    NoParent,
    Progress,
    RateLimits,
    RestoreBlock,
    RestoreResult,
    RestoreTree,
    S3Location,
    Secrets,
    UrlLocation,
    s3_config,
)
from agent.snapshots.model import Source

_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
_count = st.integers(0, 2**63 - 1)
_rate = st.floats(0, 1e12)
_limits = st.builds(
    RateLimits, upload_bytes=_rate, download_bytes=_rate, requests=_rate, concurrency=st.integers(0, 4096)
)
_tags = st.dictionaries(_text, _text, max_size=3)
_backup = {
    "path": _text,
    "source": st.builds(Source, _text, _text, _text),
    "tags": _tags,
    "pins": st.lists(_text, max_size=2).map(tuple),
    "velero": st.booleans(),
}
_parent = st.one_of(
    st.builds(NewestParent, tags=st.none() | _tags), st.builds(GivenParent, snapshot=_text), st.just(NoParent())
)
_work = st.one_of(
    st.builds(BackupTree, parent=_parent, **_backup),
    st.builds(BackupBlock, **_backup),
    st.builds(RestoreTree, snapshot=_text, target=_text, subpath=st.lists(_text, max_size=2).map(tuple)),
    st.builds(RestoreBlock, snapshot=_text, target=_text),
)
_location = st.one_of(
    st.builds(UrlLocation, url=_text),
    st.builds(S3Location, bucket=_text, prefix=_text, tags=st.lists(st.tuples(_text, _text), max_size=2).map(tuple)),
)
_spec = st.builds(JobSpec, id=_text, work=_work, location=_location, limits=_limits, parallel=st.integers(0, 64))
_secrets = st.builds(Secrets, password=_text, secret_key=_text, sse_customer_key=st.binary(max_size=32))
_progress = st.builds(Progress, bytes_done=_count, bytes_total=st.none() | _count, current=_text)
_result = st.one_of(
    st.builds(
        BackupResult, snapshot=_text, total_bytes=_count, incremental_bytes=_count, uploaded_bytes=_count,
        files=_count, errors=_count,
    ),
    st.builds(RestoreResult, bytes=_count, files=_count, directories=_count, downloaded_bytes=_count, denied=_count),
)  # fmt: skip
_to_worker = st.one_of(
    st.builds(Start, version=_count, spec=_spec, secrets=_secrets),
    st.builds(Cancel, reason=_text),
    st.builds(SetLimits, limits=_limits),
)
_from_worker = st.one_of(
    st.builds(Report, progress=_progress),
    st.builds(Log, level=_text, text=_text),
    st.builds(Metric, name=_text, labels=_tags, value=_rate),
    st.builds(Finished, result=_result),
    st.builds(Finished, error=st.builds(JobError, code=_text, message=_text)),
)


def _in_pieces(data, sizes):
    start = 0
    for size in sizes:
        yield data[start : start + size]
        start += size
    yield data[start:]


@settings(max_examples=40)
@given(st.lists(_to_worker, max_size=3), st.lists(st.integers(0, 50), max_size=8))
def test_messages_to_a_worker_arrive_whatever_pieces_they_come_in(messages, sizes):
    reader = FrameReader(to_worker)
    data = b"".join(map(encode_frame, messages))
    assert [m for piece in _in_pieces(data, sizes) for m in reader.feed(piece)] == messages
    assert reader.pending == 0


@settings(max_examples=40)
@given(st.lists(_from_worker, max_size=4), st.lists(st.integers(0, 50), max_size=8))
def test_messages_from_a_worker_arrive_whatever_pieces_they_come_in(messages, sizes):
    reader = FrameReader(from_worker)
    data = b"".join(map(encode_frame, messages))
    assert [m for piece in _in_pieces(data, sizes) for m in reader.feed(piece)] == messages


@settings(max_examples=40)
@given(st.binary(max_size=300), st.booleans())
def test_anything_else_is_refused_by_name_or_waits_for_more(data, framed):
    reader = FrameReader(from_worker)
    data = len(data).to_bytes(4, "big") + data if framed else data
    try:
        list(reader.feed(data))
    except errors.MoverProtocolError:
        return
    assert reader.pending <= len(data)


@settings(max_examples=40)
@given(_from_worker, st.data())
def test_a_damaged_message_is_refused_or_another_message(message, data):
    frame = bytearray(encode_frame(message))
    at = data.draw(st.integers(4, len(frame) - 1))
    frame[at] ^= data.draw(st.integers(1, 255))
    try:
        assert len(list(FrameReader(from_worker).feed(bytes(frame)))) == 1
    except errors.MoverProtocolError as error:
        assert "cannot be understood" in str(error)


def test_a_length_that_nobody_would_send_is_refused_before_anything_is_kept():
    with pytest.raises(errors.MoverProtocolError, match="announced"):
        list(FrameReader(from_worker).feed((MAX_FRAME + 1).to_bytes(4, "big")))


def test_a_message_that_is_too_long_is_not_sent():
    with pytest.raises(errors.MoverProtocolError, match="longer than"):
        encode_frame(Log(level="info", text="x" * MAX_FRAME))


def test_a_message_for_the_other_direction_is_refused():
    with pytest.raises(errors.MoverProtocolError):
        list(FrameReader(from_worker).feed(encode_frame(Cancel())))


def test_names_that_are_no_text_are_refused_when_they_are_sent():
    with pytest.raises(errors.MoverProtocolError, match="no valid text"):
        encode_frame(Cancel(reason="\udcff"))


def test_what_cannot_be_a_job_is_refused():
    work = RestoreTree(snapshot="1", target="/t")
    for wrong in ({"heartbeat": 0.0}, {"parallel": 65}, {"parallel": -1}):
        spec = msgspec.msgpack.encode({"id": "a", "work": work, "location": UrlLocation(url="file:///r"), **wrong})
        with pytest.raises(msgspec.ValidationError):
            msgspec.msgpack.decode(spec, type=JobSpec)


def test_secrets_show_nothing_of_themselves():
    secrets = Secrets(password="swordfish", secret_key="hidden")
    start = Start(version=VERSION, spec=JobSpec(id="a", work=RestoreTree(snapshot="1", target="/t"),
                  location=UrlLocation(url="file:///r")), secrets=secrets)  # fmt: skip
    assert "swordfish" not in repr(start) and "hidden" not in str(start)


def test_location_and_secrets_make_the_configuration_of_a_bucket():
    location = S3Location(bucket="velero", prefix="kopia/shop/", endpoint="http://minio:9000", region="r1")
    config = s3_config(location, Secrets(password="p", access_key="a", secret_key="s"), "")
    assert (config.bucket, config.prefix, config.region, config.secret_key) == ("velero", "kopia/shop/", "r1", "s")


# ---- errors as data ----


def test_every_error_comes_back_as_the_leaf_it_was():
    redact = Redactor(Secrets(password=""))
    for leaf in (errors.WrongPassword, errors.PartialRestore, errors.StorageUnavailable, errors.MoverOutOfMemory):
        back = rebuild(describe(leaf("what was tried", hint="what to do"), redact))
        assert (type(back), str(back)) == (leaf, "what was tried; what to do")


def test_a_code_that_nobody_knows_is_told():
    assert str(rebuild(JobError(code="later.invented", message="m"))) == "later.invented: m"


def test_lack_of_memory_is_recognised_inside_a_group():
    group = BaseExceptionGroup("g", [ValueError(), BaseExceptionGroup("h", [MemoryError()])])
    assert describe(group, Redactor(Secrets(password=""))).code == "mover.out-of-memory"


def test_a_described_error_holds_no_secret_and_is_short():
    error = errors.StorageError("PUT with swordfish by s3cret-key-in-a-file \udcff" + "x" * 10_000)
    secrets = Secrets(password="swordfish", credentials="[default]\naws_secret_access_key = s3cret-key-in-a-file\n")
    described = describe(error, Redactor(secrets))
    assert described.message.startswith("PUT with *** by *** \\udcff") and len(described.message) == MAX_TEXT
    encode_frame(Finished(error=described))


@settings(max_examples=40)
@given(st.lists(st.integers(0, 30), max_size=10))
def test_printed_secrets_are_hidden_whatever_pieces_they_come_in(sizes):
    lines = OutputLines(Redactor(Secrets(password="swordfish")))
    data = b"one swordfish\n\xff two\n" + b"y" * 6_000 + b"swordfish" + b"z" * 6_000
    found = [line for piece in _in_pieces(data, sizes) for line in lines.feed(piece)] + lines.feed(b"", final=True)
    assert found[:2] == ["one ***", "\\xff two"]
    assert not any("swordfish" in line for line in found)
    assert all(len(line) <= MAX_TEXT for line in found)


def test_what_a_collector_wants_to_be_shown_is_in_no_text():
    secrets = Secrets(password="", trace_headers="x-tenant=shop,authorization=Bearer%20very-secret-token")
    said = Redactor(secrets)("shop: 'Bearer very-secret-token' was refused (very-secret-token)")
    assert said == "shop: '***' was refused (***)"


def test_workers_see_nothing_of_the_environment_that_is_secret():
    environ = {
        "PATH": "/bin",
        "AWS_ROLE_ARN": "arn",
        "AWS_SECRET_ACCESS_KEY": "s",
        "AWS_SESSION_TOKEN": "t",
        "LIGHTER_PASSWORD": "p",
        "HTTPS_PROXY": "http://user:pass@proxy",
        "http_proxy": "http://proxy",
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4317",
        "OTEL_EXPORTER_OTLP_HEADERS": "authorization=t",
        "OTEL_EXPORTER_OTLP_CLIENT_KEY": "/tls/tls.key",
    }
    seen = {"PATH", "AWS_ROLE_ARN", "http_proxy", "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_CLIENT_KEY"}
    assert set(worker_environment(environ)) == {*seen, "PYTHONPATH"}
