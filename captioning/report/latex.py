"""tables.tex: the scores of the split and of its classes, to be read into a paper by \\input{tables.tex}."""

import pandas as pd

from captioning.report.columns import column_of
from captioning.untrusted import on_one_line

HEAD = r"""% Needs \usepackage{longtable}, and \usepackage[utf8]{inputenc} with a LaTeX of before 2018.
% Class names beyond Latin letters need XeLaTeX or LuaLaTeX and a font that has them."""
RULES = [{"selector": name, "props": ":hline;"} for name in ("toprule", "midrule", "bottomrule")]
CLASS_SCORES = ["bleu4", "cider_d", "accuracy", "f1"]
SIGNS = {one: f"\\{one}" for one in "&%$#_{}"} | {"^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "\\": " "}


def latex_text(title, tables):
    """Return the text of tables.tex: one table of the split's scores and, where there are classes, one of theirs.

    tables: name -> DataFrame, as tables.build_tables makes them; recipes stand beside the scores as comments
    """
    parts = [HEAD, summary_latex(title, tables["summary"])]
    if "classes" in tables:
        parts.append(classes_latex(title, tables["classes"]))
    return "\n\n".join(parts)


def summary_latex(title, summary):
    """Return the table of the split's scores, each with its recipe in a comment above."""
    frame = pd.DataFrame({"metric": summary["metric"], "value": summary["value"]})
    frame["value 95 %"] = interval_column(summary, "low", "high", 3)
    recipes = "\n".join(f"% {row.metric}: {row.recipe}" for row in summary.itertuples(index=False))
    return f"{recipes}\n{frame_latex(frame, 'summary', f'Scores of {title}', 'tab:scores')}"


def classes_latex(title, classes):
    """Return the table of the classes' scores."""
    frame = classes[["class", "count"]].copy()
    for name in CLASS_SCORES:
        frame[name] = classes[name]
        frame[f"{name} 95 %"] = interval_column(classes, f"{name}_low", f"{name}_high", 2)
    return frame_latex(frame, "classes", f"Scores of the classes of {title}", "tab:classes", environment="longtable")


def interval_column(frame, low, high, digits):
    """Return two columns of bounds as text, "0.60--0.69", "--" where there is no interval."""
    bounds = zip(frame[low], frame[high], strict=True)
    return [f"{a:.{digits}f}--{b:.{digits}f}" if a == a else "--" for a, b in bounds]


def frame_latex(frame, name, caption, label, environment=None):
    """Return a DataFrame as LaTeX, its columns named as on the page; name: of the table in columns.COLUMNS."""
    formats = "".join("r" if pd.api.types.is_numeric_dtype(frame[column]) else "l" for column in frame)
    shown = frame.copy()
    for column in shown.columns[[kind == "l" for kind in formats]]:
        shown[column] = [on_one_line(str(text)) for text in shown[column]]
    shown.columns = [column_of(name, column).name for column in frame.columns]
    shown.columns = [f"{head}{' ' * place}" for place, head in enumerate(shown.columns)]  # a Styler wants them distinct
    style = shown.style.format({shown.columns[0]: begin_row}, precision=3, escape="latex", na_rep="--")
    style = style.format_index(escape="latex", axis="columns")
    caption = caption.translate(str.maketrans(SIGNS))
    style = style.hide(axis="index").set_table_styles(RULES)
    return style.to_latex(column_format=formats, caption=caption, label=label, environment=environment)


def begin_row(cell):
    """Return the first cell of a row; the end of the row before it would take a [ or a * for its own argument."""
    return f"{{}}{cell}" if str(cell).lstrip().startswith(("[", "*")) else cell
