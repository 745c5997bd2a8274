"""Markdown tables, as the reports, the export and the model card write them."""


def markdown_table(header, rows, numeric=()):
    """Return a table as Markdown without a line break at its end.

    header:  text of each column's head
    rows:    lists of the text of each cell; `|` is escaped, so that it cannot begin a cell
    numeric: heads of the columns that are aligned right
    """
    rules = ["---:" if name in numeric else "---" for name in header]
    lines = [header, rules, *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
