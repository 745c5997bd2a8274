"""Caption tables as spreadsheets and scripts write them: read where there is no doubt, else named in one line."""

import pytest

from captioning.data.caption_tables import read_pairs, read_table
from captioning.data.omissions import Omissions


def read(path, content):
    """Return [(name, captions, split, where)] of a table, and what was left out."""
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    omissions = Omissions()
    entries = read_table(path, omissions)
    return [(entry.name, entry.captions, entry.split, entry.where) for entry in entries], omissions.found["captions"]


A, B = ("a.jpg", ["a red, round cup"], "", "line 2"), ("b.jpg", ["one cup"], "", "line 3")


@pytest.mark.parametrize(
    "text",
    [
        'image,caption\na.jpg,"a red, round cup"\nb.jpg,one cup\n',
        '\ufeffimage,caption\r\na.jpg,"a red, round cup"\r\nb.jpg,one cup\r\n',
        "image\tcaption\na.jpg\ta red, round cup\nb.jpg\tone cup\n",
        'image\tcaption\na.jpg\t"a red, round cup"\nb.jpg\tone cup\n',
        "image;caption\na.jpg;a red, round cup\nb.jpg;one cup\n",
        "image|caption\na.jpg|a red, round cup\nb.jpg|one cup\n",
        "image_name| comment_number| comment\na.jpg| 0| a red, round cup\nb.jpg| 0| one cup\n",
        'Filename,Text\na.jpg,"a red, round cup"\nb.jpg,one cup\n',
        ',image,caption\n0,a.jpg,"a red, round cup"\n1,b.jpg,one cup\n',
        'Unnamed: 0,caption,file_name\n0,"a red, round cup",a.jpg\n1,one cup,b.jpg\n',
        'image,caption\na.jpg,"a red, round cup",\nb.jpg,one cup,,\n',
        'photo name,what one sees\na.jpg,"a red, round cup"\nb.jpg,one cup\n',
        'IMAGE , Caption \na.jpg,"a red, round cup"\nb.jpg, one cup \n',
        "image\tcaption\na.jpg\ta red, round cup\nb.jpg\tone cup\n".encode("utf-16"),
    ],
)
def test_any_separator_header_and_encoding_without_doubt(tmp_path, text):
    assert read(tmp_path / "t.csv", text) == ([A, B], [])


@pytest.mark.parametrize(
    "text", ['a.jpg,"a red, round cup"\nb.jpg,one cup\n', "0|a.jpg|a red, round cup\n1|b.jpg|one cup\n"]
)
def test_no_header(tmp_path, text):
    assert read(tmp_path / "t.csv", text) == ([(*A[:3], "line 1"), (*B[:3], "line 2")], [])


@pytest.mark.parametrize(
    ("text", "captions"),
    [
        ("image,caption1,caption2\na.jpg,one,two\na.jpg,three,\n", ["one", "two", "three"]),
        ("image,caption,caption.1\na.jpg,one,two\n", ["one", "two"]),
        ("image,caption\na.jpg,one\nb.jpg,x\na.jpg,two\n", ["one", "two"]),
        ('image,caption\na.jpg,"5"" screen"\n', ['5" screen']),
        ('image,caption\na.jpg,5" screen\n', ['5" screen']),
        ('image,caption\na.jpg,"a \\"red\\" cup, empty"\n', ['a "red" cup, empty']),
        ('image,caption\na.jpg,"two\nlines"\n', ["two\nlines"]),
        ('a.jpg#0\tone , two .\na.jpg#1\t"three\n', ["one , two .", '"three']),
        ("image,caption\na.jpg#0,one\na.jpg#1,two\n", ["one", "two"]),
        ("image,caption,text\na.jpg,one,other\n", ["one"]),
    ],
)
def test_captions_of_an_image(tmp_path, text, captions):
    entries, left_out = read(tmp_path / "t.csv", text)
    assert entries[0][:2] == ("a.jpg", captions)
    assert not left_out


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ("a.jpg,", "line 3: empty caption ''"),
        ("a.jpg, ...", "line 3: empty caption '...'"),
        ("a.jpg,nan", "line 3: caption 'nan', which stands for none"),
        ("a.jpg,NULL", "line 3: caption 'NULL', which stands for none"),
        ("a.jpg", "line 3: 1 columns between commas, 2 are needed"),
        ("a.jpg,red, round", "line 3: 3 columns between commas, 2 are needed; one with commas in it needs quotes"),
        ('a.jpg,"red" cup', "line 3: a quote in the wrong place (',' expected after '\"'); write it twice"),
    ],
)
def test_a_row_that_cannot_be_used_is_left_out_by_its_line(tmp_path, row, problem):
    entries, left_out = read(tmp_path / "t.csv", f"image,caption\nb.jpg,one\n{row}\nb.jpg,two\n")
    assert left_out == [f"{tmp_path / 't.csv'}: {problem}"]
    assert entries[0][1] == ["one", "two"]


def test_lines_are_those_of_the_file(tmp_path):
    """A caption of two lines and a blank line come before the one that is named."""
    entries, left_out = read(tmp_path / "t.csv", 'image,caption\na.jpg,"two\nlines"\n\nb.jpg,\n')
    assert left_out == [f"{tmp_path / 't.csv'}: line 5: empty caption ''"]
    assert [entry[3] for entry in entries] == ["line 2", "line 5"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "t.csv: is empty"),
        ("name,words\nx,y\n", "line 1: 'name,words', must be a header with the columns image and caption"),
        ("image,a,b\nc.jpg,one,two\n", "line 1: 'image,a,b', must be a header"),
        ("a.jpg,red, round\n", "line 1: 'a.jpg,red, round', must be a header"),
        ('image,caption\na.jpg,ok\nb.jpg,"open\nc.jpg,lost\n', "line 3: a quote is opened and never closed; write it"),
        (
            "image,caption\na.jpg,ok\nb.jpg,caf\xe9\n".encode("latin-1"),
            r"line 3: not UTF-8 text \(byte 0xe9",
        ),
        (
            "image,caption\na.jpg,\uac15\uc544\uc9c0\n".encode("cp949"),
            r"line 2: not UTF-8 .*; save the file as UTF-8",
        ),
        ("image,caption,split\na.jpg,one,holdout\n", "line 2: split 'holdout', allowed are train, training"),
        (
            "image,caption,split\na.jpg,one,train\na.jpg,two,val\n",
            "line 3: a.jpg has split 'val' here and 'train' in",
        ),
    ],
)
def test_what_is_in_doubt_is_named_in_one_line(tmp_path, content, message):
    with pytest.raises(ValueError, match=message) as caught:
        read(tmp_path / "t.csv", content)
    assert str(caught.value).startswith(str(tmp_path / "t.csv"))
    assert "\n" not in str(caught.value)


def test_pairs_of_any_separator(tmp_path):
    for separator in ",;\t|":
        (tmp_path / "aliases.csv").write_text(f"class{separator}alias\r\nbee{separator} bug \r\n", encoding="utf-8-sig")
        assert list(read_pairs(tmp_path / "aliases.csv", ("class", "alias"))) == [(2, ("bee", "bug"))]
