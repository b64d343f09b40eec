"""Objects: split, listed, read back; ids as kopia makes them (§6)."""

import json
import os
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.base.scratch import FileMemory
from agent.repository.compression import decompress
from agent.repository.ids import ObjectId, content_text, parse_object_id
from agent.testing.memory_storage import MemoryStorage
from tests.unit.repository.writing_kit import FixedFormat, in_thread, make_format, open_kit

K = ord("k")
ZSTD = 0x1100


def pieces(data: bytes, seed: int) -> list[bytes]:
    rng, out = random.Random(seed), []
    while data:
        size = rng.choice((1, 700, 64_000, 300_000, 2_000_000))
        out.append(data[:size])
        data = data[size:]
    return out


@pytest.mark.parametrize("splitter", ["FIXED-128K", "DYNAMIC-128K-BUZHASH"])
@pytest.mark.parametrize("length", [0, 1, 65_535, 131_072, 131_073, 1_500_000])
async def test_objects_of_any_length_are_read_back_however_they_are_fed(splitter: str, length: int) -> None:
    kit = await open_kit(MemoryStorage(), FixedFormat(make_format(splitter=splitter, max_pack_size=1 << 20)))
    data = random.Random(length).randbytes(length)
    ids = set()
    async with kit.writer() as writer:
        for seed in range(3):
            target = writer.new_object()
            for piece in pieces(data, seed):
                await in_thread(target.write, piece)
            ids.add(await in_thread(target.finish))
    (oid,) = ids
    assert await kit.objects.read(oid) == data
    if splitter == "FIXED-128K":
        assert oid.startswith("Ix") == (length > 131_072)


async def test_a_list_is_the_json_that_kopia_writes() -> None:
    kit = await open_kit(MemoryStorage(), FixedFormat(make_format(splitter="FIXED-128K", max_pack_size=1 << 20)))
    async with kit.writer() as writer:
        target = writer.new_object()
        await in_thread(target.write, bytes(131_072) + b"abc")
        oid = await in_thread(target.finish)
        first = await in_thread(writer.write_content, bytes(131_072))
        second = await in_thread(writer.write_content, b"abc")
    text = await kit.objects.read(ObjectId(oid[1:]))
    assert text.decode() == (
        f'{{"stream":"kopia:indirect","entries":[{{"l":131072,"o":"{content_text(first)}"}},'
        f'{{"s":131072,"l":3,"o":"{content_text(second)}"}}]}}\n'
    )


async def test_a_long_list_is_split_and_listed_in_turn() -> None:
    kit = await open_kit(MemoryStorage(), FixedFormat(make_format(splitter="FIXED-128K", max_pack_size=1 << 20)))
    async with kit.writer() as writer:
        chunk = await in_thread(writer.write_content, b"a")
        oid = await in_thread(writer.assemble, [(1, ObjectId(chunk[1:].hex()))] * 5000)
    assert oid.startswith("IIx")
    assert await kit.objects.read(oid) == b"a" * 5000


async def test_prefixed_objects_have_lists_of_their_own_prefix() -> None:
    kit = await open_kit(MemoryStorage(), FixedFormat(make_format(splitter="FIXED-128K", max_pack_size=1 << 20)))
    async with kit.writer() as writer:
        target = writer.new_object(K)
        await in_thread(target.write, b"d" * 300_000)
        oid = await in_thread(target.finish)
    assert oid.startswith("Ik")
    assert await kit.objects.read(oid) == b"d" * 300_000


async def test_parts_are_cut_afresh_and_an_empty_last_part_is_an_entry_without_length() -> None:
    kit = await open_kit(MemoryStorage(), FixedFormat(make_format(max_pack_size=1 << 20)))
    data = os.urandom(400_000)
    async with kit.writer() as writer:
        made = []
        for part in (data[:200_000], data[200_000:], b""):
            target = writer.new_part()
            await in_thread(target.write, part)
            made.append(await in_thread(target.finish))
        oid = await in_thread(writer.concatenate, made)
        single = await in_thread(writer.concatenate, made[2:])
    assert [part.length for part in made] == [200_000, 200_000, 0]
    assert await kit.objects.read(oid) == data
    assert await kit.objects.read(single) == b""
    entries = json.loads(await kit.objects.read(ObjectId(oid[1:])))["entries"]
    assert 200_000 in {entry.get("s") for entry in entries}
    assert entries[-1] == {"s": 400_000, "o": single}


async def test_an_object_may_be_cut_by_another_splitter_than_the_repository_s() -> None:
    kit = await open_kit(MemoryStorage(), FixedFormat(make_format(max_pack_size=1 << 20)))
    async with kit.writer() as writer:
        target = writer.new_object(splitter="FIXED-1M")
        await in_thread(target.write, bytes(2_500_000))
        oid = await in_thread(target.finish)
    assert [extent.length for extent in await kit.objects.extents(oid)] == [1 << 20, 1 << 20, 2_500_000 - (2 << 20)]


async def test_version_1_compresses_data_at_object_level_where_it_helps_and_metadata_never() -> None:
    kit = await open_kit(MemoryStorage(), FixedFormat(make_format(version=1, max_pack_size=1 << 20)))
    text, noise = b"text " * 1000, os.urandom(5000)
    async with kit.writer() as writer:
        ids = []
        for data, prefix in ((text, 0), (noise, 0), (text, K)):
            target = writer.new_object(prefix, ZSTD)
            await in_thread(target.write, data)
            ids.append(await in_thread(target.finish))
    assert [await kit.objects.read(oid) for oid in ids] == [text, noise, text]
    assert [oid[0] == "Z" for oid in ids] == [True, False, False]
    stored = await kit.contents.get(parse_object_id(ids[0]).content)
    assert decompress(stored, len(text)) == text
    assert await kit.contents.get(parse_object_id(ids[2]).content) == text


async def test_later_versions_compress_contents_where_it_helps() -> None:
    kit = await open_kit(MemoryStorage(), FixedFormat(make_format()))
    async with kit.writer() as writer:
        text = await in_thread(writer.write_content, b"text " * 1000, 0, ZSTD)
        noise = await in_thread(writer.write_content, os.urandom(5000), 0, ZSTD)
    packed = kit.index.find(text)
    assert (packed.compression, packed.original_length) == (ZSTD, 5000)
    assert packed.packed_length < 1000
    assert kit.index.find(noise).compression == 0
    assert await kit.contents.get(text) == b"text " * 1000


@settings(max_examples=20)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 200_000)), max_size=8), st.integers(0, 100))
async def test_any_sequence_of_writes_gives_the_object_of_the_whole(runs: list[tuple[int, int]], seed: int) -> None:
    kit = await open_kit(MemoryStorage(), FixedFormat(make_format(max_pack_size=1 << 20)))
    data = b"".join(random.Random(kind).randbytes(length) if kind else bytes(length) for kind, length in runs)
    async with kit.writer() as writer:
        whole, fed = writer.new_object(), writer.new_object()
        whole.write(data)
        for piece in pieces(data, seed):
            fed.write(piece)
        oid = whole.finish()
        assert fed.finish() == oid
    assert await kit.objects.read(oid) == data


async def test_large_metadata_lies_in_files_and_everything_else_in_memory() -> None:
    kit = await open_kit(MemoryStorage(), FixedFormat(make_format(max_pack_size=8 << 20)))
    text = b"text that is long and says little " * (1 << 16)
    async with kit.writer() as writer:
        large = await in_thread(writer.write_content, text, K, ZSTD)
        small = await in_thread(writer.write_content, text[: 1 << 19], K, ZSTD)
        data = await in_thread(writer.write_content, text, 0, ZSTD)
    found = {cid: memoryview(await kit.contents.get(cid)) for cid in (large, small, data)}
    assert found[large] == found[data] == text
    assert found[small] == text[: 1 << 19]
    assert isinstance(found[large].obj, FileMemory)
    assert not isinstance(found[small].obj, FileMemory)
    assert not isinstance(found[data].obj, FileMemory)
    assert await kit.objects.read(ObjectId(content_text(large))) == text
