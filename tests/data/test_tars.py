"""Tar shards: the names that braces stand for, and what a shard holds, however it was made or damaged."""

import gc
import io
import os
import re
import tarfile
import tracemalloc

import pytest

from captioning.data.tars import (
    MAX_PICTURE_BYTES,
    PICTURES,
    TEXTS,
    CaptionedSamples,
    ShardCaptions,
    find_shards,
    open_picture,
    read_samples,
    split_place,
    write_shard,
)

EVERYTHING = PICTURES | TEXTS


def member(name, content=b"x", **fields):
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, content


def make_tar(path, *members):
    with tarfile.open(path, "w") as tar:
        for info, content in members:
            tar.addfile(info, io.BytesIO(content))
    return path


def read(path, suffixes=EVERYTHING):
    return list(read_samples(path, suffixes))


def test_braces_stand_for_names_in_order(tmp_path):
    for number in range(8, 12):
        make_tar(tmp_path / f"{number:05}.tar")
    spelt = f"{tmp_path}/{{00008..00011}}.tar"
    names = [tmp_path / f"{number:05}.tar" for number in range(8, 12)]
    assert find_shards([spelt]) == names
    assert find_shards([f"{tmp_path}/*.tar"]) == names
    assert find_shards([f"{tmp_path.parent}/{tmp_path.name[:-1]}?/0*.tar"]) == names
    assert find_shards([str(names[1]), str(names[0])]) == names[1::-1]
    both = find_shards([f"{tmp_path}/{{0..0}}00{{08..11}}.tar"])
    assert both == names


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none/{00..09}.tar", "none/{00..09}.tar: no such shard (looked for none/00.tar and so on)"),
        ("none/*.tar", "none/*.tar: no such shard"),
        ("photos/", "photos/: the name of a tar shard ends in .tar"),
        ("{9..0}.tar", "the range from 9 to 0 runs backwards"),
        ("{0..99999999999}.tar", "stands for 100,000,000,000 shards, allowed are 10,000,000"),
    ],
)
def test_names_without_a_shard_are_one_line(name, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        find_shards([name])


def test_a_shard_is_read_as_it_was_written(tmp_path):
    samples = [("0", {"jpg": b"picture", "txt": b"a cat\non a  mat", "json": b'{"url": "u"}'}), ("d/1", {"png": b"p"})]
    write_shard(tmp_path / "a.tar", samples)
    write_shard(tmp_path / "b.tar", samples)
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()
    first, second = read(tmp_path / "a.tar")
    assert (first.key, first.picture, first.captions, first.info) == ("0", b"picture", ["a cat on a mat"], {"url": "u"})
    assert (second.key, second.picture, second.captions, second.problem) == ("d/1", b"p", [], "")
    assert [one.members for one in read(tmp_path / "a.tar", {"txt"})] == [{"txt": b"a cat\non a  mat"}, {}]


def test_what_json_says_of_captions_counts_if_it_is_text(tmp_path):
    texts = [b'{"captions": ["a", "b"]}', b'{"captions": [1]}', b"[" * 10**5, b'{"captions": "a"}', b"7"]
    write_shard(tmp_path / "a.tar", [(str(i), {"txt": b"t", "json": text}) for i, text in enumerate(texts)])
    assert [one.captions for one in read(tmp_path / "a.tar")] == [["a", "b"], ["t"], ["t"], ["t"], ["t"]]


HOSTILE = {
    "a path outside": ([member("../../a.jpg")], "../../a.jpg: its name leads out of the shard"),
    "an absolute path": ([member("/etc/a.jpg")], "/etc/a.jpg: its name leads out of the shard"),
    "a device": ([member("a.jpg", b"", type=tarfile.CHRTYPE)], "a.jpg: is a link, a device or a pipe, not a file"),
    "a pipe": ([member("a.jpg", b"", type=tarfile.FIFOTYPE)], "a.jpg: is a link, a device or a pipe, not a file"),
    "a link": ([member("a.jpg", b"", type=tarfile.SYMTYPE, linkname="/etc/passwd")], "a.jpg: is a link"),
    "a hard link": ([member("a.jpg", b"", type=tarfile.LNKTYPE, linkname="b.jpg")], "a.jpg: is a link"),
    "two members of one suffix": ([member("a.jpg"), member("a.jpg")], "two members of one key: a.jpg and a.jpg"),
    "two pictures": ([member("a.jpg"), member("a.png")], "two members of one key: a.jpg and a.png"),
    "a text of 2 MB": ([member("a.txt", b"x" * 2**21)], "a.txt: 2,097,152 bytes, at most 1,048,576 are read"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_member_is_a_problem_of_its_sample_alone(tmp_path, name):
    members, message = HOSTILE[name]
    found = read(make_tar(tmp_path / "a.tar", *members, member("good.jpg", b"good")))
    assert message in found[0].problem
    assert (found[1].picture, found[1].problem) == (b"good", "")
    assert len(found) == 2


def test_a_member_of_10_gigabytes_is_passed_over_unread(tmp_path):
    """The file has a hole, so it takes no room here; the next picture is read."""
    path = tmp_path / "a.tar"
    large, _ = member("large.jpg")
    large.size = 10**10
    good, _ = member("good.jpg", b"good")
    with open(path, "wb") as file:
        file.write(large.tobuf())
        file.seek(-(-(10**10) // 512) * 512, os.SEEK_CUR)
        file.write(good.tobuf() + b"good".ljust(512, b"\0") + bytes(1024))
    tracemalloc.start()
    first, second = read(path)
    assert tracemalloc.get_traced_memory()[1] < 10**7
    tracemalloc.stop()
    assert first.problem == f"large.jpg: 10,000,000,000 bytes, at most {MAX_PICTURE_BYTES:,} are read"
    assert second.picture == b"good"


def test_a_header_that_claims_gigabytes_is_refused(tmp_path):
    """tarfile would read the whole of a long name, or of a list of attributes, into memory."""
    for kind in (tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE):
        info, _ = member("a")
        info.type, info.size = kind, 10**10
        path = tmp_path / "a.tar"
        with open(path, "wb") as file:
            file.write(info.tobuf(tarfile.GNU_FORMAT))
            file.truncate(2 * 10**10)
        tracemalloc.start()
        with pytest.raises(ValueError, match=r"a\.tar: not a whole tar"):
            read(path)
        assert tracemalloc.get_traced_memory()[1] < 10**7
        tracemalloc.stop()


def test_a_tar_that_leads_back_to_itself_ends(tmp_path):
    """A negative size led tarfile back to the same header for ever."""
    info, _ = member("a.jpg")
    block = bytearray(info.tobuf())
    block[124:136] = (2**96 - 512).to_bytes(12, "big")  # base 256, -512
    block[148:156] = b"%06o\0 " % (256 + sum(block[:148]) + sum(block[156:]))
    (tmp_path / "a.tar").write_bytes(bytes(block) + bytes(1024))
    with pytest.raises(ValueError, match="not a whole tar"):
        read(tmp_path / "a.tar")


def test_a_cut_tar_is_noticed_wherever_it_is_cut(tmp_path):
    """tarfile takes one that is cut between two members, or has a damaged header, for a whole one."""
    samples = [(str(number), {"jpg": bytes([number]) * 700}) for number in range(3)]
    write_shard(tmp_path / "whole.tar", samples)
    content = (tmp_path / "whole.tar").read_bytes()
    assert len(content) == 10240  # of which three times 512 + 1024 are members
    path = tmp_path / "cut.tar"
    for length in (0, 1, 100, 511, 512, 513, 1100, 1535, 1536, 1537, 2048, 3072, 4607, 4608):
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match=r"cut\.tar: not a whole tar"):
            read(path)
    path.write_bytes(content[:1536] + b"\1" * 512 + content[2048:])
    with pytest.raises(ValueError, match=r"cut\.tar: not a whole tar \(cut or damaged at byte 1,536\)"):
        read(path)


def test_a_key_that_comes_again_is_marked(tmp_path):
    path = make_tar(
        tmp_path / "a.tar", member("./a.jpg"), member("b.JPG"), member("a.txt"), member(".c.jpg"), member("d")
    )
    assert [(one.key, one.repeated, sorted(one.members)) for one in read(path)] == [
        ("a", False, ["jpg"]), ("b", False, ["jpg"]), ("a", True, ["txt"])
    ]  # fmt: skip


def test_what_is_no_file_is_one_line(tmp_path):
    os.mkfifo(tmp_path / "pipe.tar")
    for name, message in (("pipe.tar", "is a device or a pipe"), ("none.tar", "cannot be read"), (".", "is a folder")):
        with pytest.raises(ValueError, match=message):
            read(tmp_path / name)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # webdataset leaves its files open
def test_the_library_of_the_format_reads_the_same(tmp_path):
    webdataset = pytest.importorskip("webdataset")
    samples = [(f"{number:03}", {"jpg": bytes([number]), "txt": b"a cat", "json": b"{}"}) for number in range(5)]
    write_shard(tmp_path / "a.tar", samples)
    loaded = webdataset.WebDataset(str(tmp_path / "a.tar"), shardshuffle=False)
    theirs = [(one["__key__"], {name: one[name] for name in ("jpg", "txt", "json")}) for one in loaded]
    del loaded
    gc.collect()
    assert theirs == [(one.key, one.members) for one in read(tmp_path / "a.tar")] == samples


def test_captions_are_counted_and_those_that_are_missing_are_named(tmp_path):
    samples = [(f"{number:03}", {"jpg": b"x" * 10_000, "txt": f"a cat {number}".encode()}) for number in range(100)]
    for number, text in ((3, b""), (7, b"\xff\xfe!"), (9, b"..." * 10)):
        samples[number][1]["txt"] = text
    write_shard(tmp_path / "a.tar", samples)
    captions = ShardCaptions([tmp_path / "a.tar"])
    assert list(captions) == list(captions) == [f"a cat {n}" for n in range(100) if n not in (3, 7, 9)]
    assert [line.split(": ")[1] for line in captions.failed] == ["003", "007", "009"]
    write_shard(tmp_path / "b.tar", [(str(number), {"jpg": b"x"}) for number in range(10)])
    with pytest.raises(ValueError, match=r"13 of 110 samples have no caption, at most 5% may lack one; .*a\.tar: 003"):
        list(ShardCaptions([tmp_path / "a.tar", tmp_path / "b.tar"]))


def test_the_memory_does_not_grow_with_the_number_of_captions(tmp_path):
    write_shard(tmp_path / "a.tar", [(f"{n:05}", {"txt": b"a cat on a mat"}) for n in range(500)])
    peaks = []
    for repeats in (2, 20):
        tracemalloc.start()
        assert sum(1 for _ in ShardCaptions([tmp_path / "a.tar"] * repeats)) == 500 * repeats
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]


def test_a_place_says_where_a_picture_stands(tmp_path):
    path = make_tar(
        tmp_path / "a.tar", member("x/1.jpg", b"one"), member("x/1.txt", b"a dog"), member("2.PNG", b"second"),
        member("2.txt", b"a cat"),
    )  # fmt: skip
    samples = list(CaptionedSamples([path], PICTURES))
    assert [(sample.key, captions) for _, sample, captions in samples] == [("x/1", ["a dog"]), ("2", ["a cat"])]
    assert all(sample.picture is None for _, sample, _ in samples), "pictures are not read"
    assert [open_picture(sample.place).read() for _, sample, _ in samples] == [b"one", b"second"]
    assert samples[0][1].place == f"{path}/512+3/1.jpg"
    assert split_place(samples[0][1].place) == (str(path), 512, 3)
    for name in ("a.jpg", "a.tar", f"{path}/1.jpg", f"{path}/5+3/a/b.jpg", f"{path}/-5+3/1.jpg"):
        assert open_picture(name) is None
    os.truncate(path, 514)
    with pytest.raises(ValueError, match=r"a.tar/512\+3/1.jpg: the shard has been cut since"):
        open_picture(samples[0][1].place)
    with pytest.raises(ValueError, match=r"a.tar/0\+9999999999/1.jpg: cannot be read \(a header claims 9999999999"):
        open_picture(f"{path}/0+9999999999/1.jpg")


@pytest.mark.parametrize(
    ("bad", "line"),
    [
        ([member("bad.txt", b"a dog")], "bad: no picture"),
        ([member("bad.jpg")], "bad: no caption"),
        ([member("../bad.jpg"), member("../bad.txt", b"a dog")], "its name leads out of the shard"),
        ([member("bad.jpg", b"", type=tarfile.CHRTYPE), member("bad.txt", b"a dog")], "is a link, a device or a pipe"),
        ([member("bad.jpg"), member("bad.png"), member("bad.txt", b"a dog")], "two members of one key"),
        ([member("good0.jpg"), member("good0.txt", b"a dog")], "good0 stands in it twice"),
    ],
)
def test_a_sample_that_cannot_be_trained_on_is_left_out_and_named(tmp_path, bad, line):
    good = [member(f"good{n}.{suffix}", b"a cat") for n in range(30) for suffix in ("jpg", "txt")]
    samples = CaptionedSamples([make_tar(tmp_path / "a.tar", *good, *bad)], PICTURES)
    assert len(list(samples)) == 30
    assert len(samples.failed) == 1
    assert line in samples.failed[0]
    with pytest.raises(ValueError, match=r"1 of 9 samples have no picture or no caption, at most 5%"):
        list(CaptionedSamples([make_tar(tmp_path / "b.tar", *good[:16], *bad)], PICTURES))


def headers_of_headers(number):
    """A long name's header before the long name's header before ... a picture's."""
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = b"L", 6
    picture = member("x.jpg")[0].tobuf(tarfile.GNU_FORMAT) + b"x".ljust(512, b"\0")
    return (info.tobuf(tarfile.GNU_FORMAT) + b"x.jpg".ljust(512, b"\0")) * number + picture + bytes(1024)


def hole(path):
    """A tar with a header of zeros in its middle, as a disk or a preallocated download leaves it."""
    make_tar(path, *(member(f"{number}.jpg") for number in range(9)))
    content = bytearray(path.read_bytes())
    content[4 * 1024 : 4 * 1024 + 512] = bytes(512)
    return bytes(content)


def foreign_sparse_map(path):
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        info, content = member("x.jpg")
        info.pax_headers = {"GNU.sparse.map": "a,b", "GNU.sparse.size": "5"}
        tar.addfile(info, io.BytesIO(content))
    return path.read_bytes()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (hole, "cut or damaged at byte 4,096"),  # its other pictures were lost without a word
        (lambda path: headers_of_headers(3000), "damaged at its first header: .*recursion"),  # a traceback
        (foreign_sparse_map, "damaged at its first header: invalid literal"),  # an error that named no file
        (lambda path: bytes(1024) + b"\0" * 20_000 + b"x", "cut or damaged at byte 0"),
    ],
)
def test_headers_that_are_none_are_damage(tmp_path, content, reason):
    (tmp_path / "a.tar").write_bytes(content(tmp_path / "a.tar"))
    with pytest.raises(ValueError, match=rf"a.tar: not a whole tar \(.*{reason}"):
        read(tmp_path / "a.tar")


def test_zeros_behind_the_end_of_a_tar_are_no_damage(tmp_path):
    path = make_tar(tmp_path / "a.tar", member("1.jpg"), member("2.jpg"))
    path.write_bytes(path.read_bytes() + bytes(100_000))
    assert [sample.key for sample in read(path)] == ["1", "2"]
