"""A Markdown table keeps its cells apart."""

from captioning.markup import markdown_table


def test_table():
    text = markdown_table(["name", "MB"], [["a|b", "1.2"], ["", "10"]], numeric=["MB"])
    assert text == "| name | MB |\n| --- | ---: |\n| a\\|b | 1.2 |\n|  | 10 |"


def test_table_without_rows_has_a_head():
    assert markdown_table(["name"], []) == "| name |\n| --- |"
