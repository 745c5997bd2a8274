"""The tables for LaTeX: read by an own small parser, and compiled where there is a LaTeX."""

import re
import shutil
import subprocess

import pytest
from studies import HAND_MADE, predict, repeated, study

from captioning.report.latex import latex_text

DOCUMENT = (
    r"\documentclass{article}\usepackage[utf8]{inputenc}\usepackage{longtable}\begin{document}\input{t}\end{document}"
)


def text_of(predictions=None, **more):
    return latex_text("mobile_v2 on 100% data, val split", study(predictions or repeated(HAND_MADE), **more).tables)


def rows(text, label):
    """The cells of the table that has a label."""
    part = text[text.index(f"\\label{{{label}}}") :]
    part = part[: part.index("\\end{")]
    return [
        [cell.strip() for cell in line.split(" & ")] for line in re.findall(r"(.*?) \\\\$", part, re.M) if " & " in line
    ]


def test_the_tables_hold_the_scores():
    tables = study(repeated(HAND_MADE)).tables
    text = latex_text("mobile", tables)
    scores = {row[0]: row[1:] for row in rows(text, "tab:scores")[1:]}
    (bleu,) = [row for row in tables["summary"].itertuples() if row.metric == "BLEU-4"]
    assert scores["BLEU-4"] == [f"{bleu.value:.3f}", f"{bleu.low:.3f}--{bleu.high:.3f}"]
    assert f"% BLEU-4: {bleu.recipe}" in text
    classes = {row[0]: row for row in rows(text, "tab:classes")}
    assert classes["class"][1:3] == ["images", "BLEU-4"]
    assert classes["cat"][1] == "10"
    assert classes["cat"][6] == "0.500"


def test_signs_of_latex_are_escaped():
    names = ["a_b & c%", "d{e}$#", "f\\g^~"]
    made = [predict(name, "x y", "x y", name=f"{n}.jpg") for n in range(5) for name in names]
    text = text_of(made, classes=names)
    assert r"a\_b \& c\%" in text
    assert r"Scores of mobile\_v2 on 100\% data" in text
    assert not re.search(r"(?<!\\)[_#$]", re.sub(r"(?m)^%.*$", "", text))


def test_the_end_of_a_row_takes_no_name_for_its_argument():
    """\\\\ followed by [1cm] adds space, followed by * it forbids a page break."""
    names = ["[1cm]x", "*star", "plain"]
    text = text_of([predict(name, "x y", "x y", name=f"{n}.jpg") for n in range(5) for name in names], classes=names)
    assert [row[0] for row in rows(text, "tab:classes")[-3:]] == ["{}*star", "{}[1cm]x", "plain"]


def test_signs_in_a_title():
    text = latex_text("m on a^b~c\\d, val split", study(repeated(HAND_MADE)).tables)
    assert r"Scores of m on a\textasciicircum{}b\textasciitilde{}c d, val split" in text


def test_without_classes_there_is_one_table():
    text = text_of([predict("", p.caption, *p.example.captions) for p in HAND_MADE], classes=())
    assert "tab:scores" in text
    assert "tab:classes" not in text


def test_the_tables_compile(tmp_path):
    if not shutil.which("pdflatex"):
        pytest.skip("no LaTeX on this machine")
    names = ["a_b & c%", "d{e}$#", "f\\g^~", "caf\u00e9", *(f"c{number}" for number in range(80))]
    made = [predict(name, "x y", "x y", name=f"{n}.jpg") for n in range(2) for name in names]
    (tmp_path / "t.tex").write_text(text_of(made, classes=names), encoding="utf-8")
    (tmp_path / "main.tex").write_text(DOCUMENT, encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "main.tex"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stdout[-2000:]
    assert (tmp_path / "main.pdf").stat().st_size > 1000
