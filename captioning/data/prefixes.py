"""What Arabic, Hebrew and the Romance languages write onto the beginning of a word: articles, "and", prepositions."""

import re
from functools import lru_cache

# First and last letter of a script, then its prefixes. Onto a stem of two letters only the article: Hebrew "water" is
# no "sea" with a preposition.
_SCRIPTS = [
    ("\u0620", "\u06ff", re.compile(r"(?:[وف]?[بك]?ال|[وف]?لل)(?=\w\w)"), re.compile(r"[وفبكل](?=\w{3})")),
    ("\u05d0", "\u05ea", re.compile(r"[ושכבלמ]{0,2}ה(?=\w\w)"), re.compile(r"[ושבלמכ](?=\w{3})")),
]
# Common words that begin with such a letter as their own.
_TEXT = """
بطريق بطيخ بطاطا بركة برتقال بقرة بنت بيضة بحيرة بستان لوحة لعبة ليمون كتاب كرسي كعكة كنيسة كمان كاميرا كوكب
فراشة فيل فستان فطيرة فاكهة وردة ورقة وسادة ولد وجه وشاح
מנורה מספר מטבח מכונית מיטה מגדל מסוק מפתח מטריה מטרייה מחבת מים מלון מחשב מצלמה מסעדה כדור כלב כיסא כוכב ככר
כביש כובע כנסייה כתר ברווז בקבוק בננה בלון בניין בריכה לימון לוח לחם שולחן שעון שמש שמיים שער שלט ורד וילון
הר היפופוטם
"""
_WHOLE = frozenset(_TEXT.split())
_ELIDED = re.compile(  # French, Italian, Catalan: l'homme, dell'acqua
    r"(?:[ldjmtsnc]|(?:jus|lors|puis|quoi)?qu|un|[dn]?ell|d?all|sull|coll|quell|bell|sant|quest)'(?=\w)"
)


@lru_cache(2**16)
def without_prefix(word):
    """Return what is left of a word, in lower case, without each prefix that it may begin with; () if it has none.

    A look-up should prefer the word as it is: many begin with such letters themselves.
    """
    if word in _WHOLE:
        return ()
    if "'" in word:
        patterns = (_ELIDED,)
    else:
        patterns = next((rest for first, last, *rest in _SCRIPTS if first <= word[:1] <= last), ())
    found = (pattern.match(word) for pattern in patterns)
    return tuple(word[match.end() :] for match in found if match)
