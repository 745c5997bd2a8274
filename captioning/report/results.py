"""report.json: every number of a report, for papers and dashboards; docs/results.md describes it.

The order of names and rows is that of the report, and the same for the same data, so that two files can be compared
line by line. A number that does not exist is null.
"""

import json
import re

import numpy as np
import pandas as pd

from captioning.report.columns import column_of
from captioning.report.tables import METRICS

FORMAT = 1


def results_text(title, provenance, tables, texts, captions):
    """Return the text of report.json.

    provenance: of provenance.build_provenance; tables: name -> DataFrame; texts: section -> sentences
    captions:   name of a gallery -> the rows of the image_table that it shows
    """
    recipes = recipes_of(tables["summary"]) if "summary" in tables else {}
    content = {
        "format": FORMAT,
        "title": title,
        "provenance": provenance,
        "sentences": texts,
        "tables": {name: table_content(name, table, recipes) for name, table in tables.items() if name != "images"},
        "captions": {name: rows_content(tables["images"].loc[rows]) for name, rows in captions.items()},
    }
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


def recipes_of(summary):
    """Return column -> its recipe without the number of images, which each row of a table has its own of."""
    printed = {printed: name for name, printed in METRICS.items()}
    rows = summary.drop_duplicates("metric")
    return {
        printed[metric]: re.sub(r"\|n:\d+", "", recipe)
        for metric, recipe in zip(rows["metric"], rows["recipe"], strict=True)
        if metric in printed
    }


def table_content(name, table, recipes):
    """Return a table: its columns with their names, meanings and recipes, and its rows."""
    if name == "confusion":
        table = table.rename_axis("class").reset_index()
    columns = {}
    for column in table.columns:
        shown = column_of(name, column)
        columns[column] = {"name": shown.name, "text": shown.text}
        if column in recipes and name != "summary":
            columns[column]["recipe"] = recipes[column]
    return {"columns": columns, "rows": rows_content(table)}


def rows_content(table):
    """Return the rows of a DataFrame as dicts of what JSON has: NaN is None."""
    return [{name: plain(value) for name, value in row.items()} for row in table.to_dict("records")]


def plain(value):
    """Return a cell as a type of JSON."""
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and pd.isna(value) else value
