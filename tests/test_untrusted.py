"""What strangers write is text everywhere: on a terminal, in Markdown, in a spreadsheet."""

import io
import json

import pandas as pd
import pytest

from captioning.untrusted import (
    CONTROL,
    EscapedStream,
    escaped,
    markdown_cell,
    markdown_line,
    on_one_line,
    write_table,
)


def test_what_a_terminal_obeys_is_spelt_out_and_all_else_stays():
    assert escaped("\x1b[31mred\x1b[0m") == r"\x1b[31mred\x1b[0m"
    assert escaped("a\x07b\x9b2Jc\x7f") == r"a\x07b\u009b2Jc\u007f"
    assert escaped("a\u202egpj.exe") == r"a\u202egpj.exe"
    kept = "새 고양이, naïve 🖼️ \\x1b 3 > 2\ttab\nline\r"
    assert escaped(kept) == kept


def test_one_line_stays_one():
    """str.splitlines knows ten ends of a line; a log reader may know each."""
    ends = "a\tb\nc\rd\x0be\x0cf\x1cg\x1dh\x1ei\x85j\u2028k\u2029l"
    assert on_one_line(ends) == r"a\tb\nc\rd\x0be\x0cf\x1cg\x1dh\x1ei\u0085j\u2028k\u2029l"
    assert len(on_one_line("".join(map(chr, range(0x3000)))).splitlines()) == 1


def test_what_is_spelt_out_inside_json_is_still_json():
    text = "".join(map(chr, range(0x3000)))
    assert json.loads(escaped(json.dumps(text, ensure_ascii=False))) == text


def test_a_stream_writes_no_escape_and_is_a_stream_in_all_else():
    file = io.StringIO()
    stream = EscapedStream(file)
    print("a\x1b[2Jb", "c", file=stream)
    stream.writelines(["d\x1b\n", "e\n"])
    stream.flush()
    assert file.getvalue() == "a\\x1b[2Jb c\nd\\x1b\ne\n"
    assert not stream.isatty()


def test_the_characters_of_words():
    assert not CONTROL.search("chat-naïve 새 고양이 क्षि نص")  # joiners and accents of scripts are letters
    assert all(
        CONTROL.search(f"a{c}b") for c in "\0\n\x1b\x7f\x9b\u061c\u200e\u200f\u202a\u202e\u2066\u2069\ud800\udfff"
    )


def test_no_cell_of_a_csv_is_a_formula_and_pandas_gives_back_each(tmp_path):
    texts = ["=1+1", "+1", "-x", "@SUM(A1)", "\t=1", "'=1", "'", "＝1", "a=1", "", "plain, with a comma"]
    texts += ["a\rb", "\r=1", "a\r\nb", "a\nb", "ends\r"]  # a bare carriage return began a row of its own for pandas
    frame = pd.DataFrame({"=name": texts, "value": [-0.5] * len(texts)})
    write_table(tmp_path / "a.csv", frame, index=False)
    read = pd.read_csv(tmp_path / "a.csv", keep_default_na=False)
    assert list(read) == ["'=name", "value"]
    assert (tmp_path / "a.csv").read_bytes().startswith(b"'=name,value\n'=1+1,-0.5\n")
    assert not any(text[:1] in list("=+-@\t\r＝") for text in read["'=name"])
    assert read["'=name"].str.removeprefix("'").tolist() == texts
    assert (read["value"] == -0.5).all()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("<img src=x onerror=alert(1)>", "&lt;img src=x onerror=alert(1)>"),
        ("[win](https://evil.example)", r"[win\](https&#58;//evil.example)"),
        ("![x](a.png)", r"![x\](a.png)"),
        ("`code` and \\`<b>`", r"\`code\` and \\\`&lt;b>\`"),
        ("p < 0.05, [0.1, 0.2]", "p < 0.05, [0.1, 0.2]"),
        ("www.evil.example", "www&#46;evil.example"),
    ],
)
def test_a_cell_of_markdown_shows_text_as_it_is(text, shown):
    assert markdown_cell(text) == shown


def test_a_line_of_markdown_keeps_our_code_and_links_alone():
    line = "[`a.csv`](a.csv): `<end>` of <b>x</b>, [`a.csv`](http://evil.example), [y](z)"
    assert markdown_line(line) == (
        r"[`a.csv`](a.csv): `<end>` of &lt;b>x&lt;/b>, [`a.csv`\](http&#58;//evil.example), [y\](z)"
    )
    assert markdown_line("a \\`<b>`") == r"a \\`<b>`"  # a backslash of a stranger does not open our code
