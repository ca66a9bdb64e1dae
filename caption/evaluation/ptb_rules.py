"""The rules of the PTBTokenizer, as its output shows them; `ptb` applies them."""

import re
import unicodedata
from collections.abc import Callable
from functools import cache

SYMBOLS = str.maketrans(
    {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
    | dict.fromkeys("€₠¤\x80", "$")
    | {"£": "#", "¢": "cents", "¼": "1/4", "½": "1/2", "¾": "3/4", "⅓": "1/3", "⅔": "2/3"}
    | dict.fromkeys("‘‛‹\x91", "`")
    | dict.fromkeys("’›\x92", "'")
    | dict.fromkeys("“«\x93", "``")
    | dict.fromkeys('"”»\x94', "''")
)

# Abbreviations that keep their full stop: titles; those that may end a sentence; with a capital; before a number.
TITLES = """
    adj adm adv alex assoc asst atty attys ave brig capt cf cie cmdr col comdr cpl dept det dr drs elec ens ft gen
    gov govs hon insp invt jos lieut lt maj messrs mfg mlle mme mr mrs ms msgr mt mtg natl pfc ph pres prof profs
    pvt rep reps rev sen sens sfc sgt spc st ste supt supts treas vs wm
"""
ABBREVIATIONS = """
    al ala apr ariz assn aug bancorp bhd bldg blvd bros calif co colo conn corp cos ct dak dec ed.d esq est etc ext
    feb fla fri ga inc ind intl jan jr jul jun kan kans ky ltd mar md mich minn mo mon mont neb nev nov oct okla
    penn ph.d plc ppte ppty pte ptes pty ptys rd rt sep sept seq sq sr sys tel tenn thu thurs tue tues univ va vt
    wed wis wisc wyo
"""
CAPITAL_ABBREVIATIONS = "ark az del ill la mass miss ore pa tex wash"
NUMBER_ABBREVIATIONS = "art ca fig figs no nos op pp prop"
# Before these words a letter with a full stop ("plan b. The ...") ends a sentence and loses the stop.
STARTERS = """
    a about according additionally after an as at but earlier he her here however if in it last many more mr. ms.
    now once one other our she since so some such that the their then there these they this we what when while yet
    you
"""
EXTENSIONS = """
    bat bmp c cgi class cpp dll doc docx exe gif gz h htm html jar java jpeg jpg mov mp3 pdf php pl png ppt ps py
    sql tar txt wav x xml zip
"""

# Characters, neither letters nor digits, that become tokens of their own.
KEPT = {
    0xA1, *range(0xA5, 0xC0), 0xD7, 0xF7, 0x37E, 0x387, 0xE3F, *range(0x2016, 0x2024), *range(0x2030, 0x203C),
    *range(0x203E, 0x2043), 0x2044, 0x20A4, *range(0x2100, 0x2150), *range(0x2155, 0x215F), *range(0x2190, 0x2C00),
    0x3001, 0x3002, 0x3012, 0x30FB, *range(0xFF01, 0xFF66), 0xFFE0, 0xFFE1, 0xFFE5, 0xFFE6,
}  # fmt: skip


def _any(words: str) -> str:
    return "(?i:" + "|".join(map(re.escape, sorted(words.split(), key=len, reverse=True))) + ")"


class _Shapes(dict[int, str]):
    """Map each character beyond ASCII to the one that stands for it in the rules.

    é is any letter, U+0301 any accent, 0 a digit, ² a small digit, U+2010 a hyphen, U+2000 a space, ¦ any other sign
    that is kept. NUL is deleted; it stands for all beyond U+FFFF, such as emoji. Other characters stand for themselves.
    """

    def __missing__(self, code: int) -> str:
        self[code] = shape = self.find(chr(code))
        return shape

    @staticmethod
    def find(character: str) -> str:
        code, kind = ord(character), unicodedata.category(character)
        if code > 0xFFFF:
            return "\0"
        if character in "‐‑֊":
            return "\u2010"
        if (0x2C2 <= code <= 0x36F and kind[0] != "L") or (
            # vowel signs and the like; the program deletes those of some scripts, and splits words there
            (0x36F < code < 0x1AB0 or 0xA66F <= code < 0xAC00) and kind in ("Mn", "Mc")
        ):
            return "\u0301"
        if kind[0] == "L":
            return "é"
        if character in "²³¹⁰" or 0x2074 <= code <= 0x2079 or 0x2080 <= code <= 0x2089:
            return "²"
        if kind == "Nd":
            return "0"
        if character in "\u3000" or 0x2000 <= code <= 0x200A:
            return "\u2000"
        if character in "\xa0\xad\x85\x80\x91\x92\x93\x94\x96\x97…–—―‘’‛‹›“”«»‚„‟€₠¤£¢¼½¾⅓⅔⁄٫٬":
            return character
        return "¦" if code in KEPT or (0x2070 <= code <= 0x208E and kind != "Cn") else "\0"


SHAPES = _Shapes((code, chr(code)) for code in range(128))


def _plain(text: str) -> str:
    return text.replace("\xad", "").lower()


def _bracketed(text: str) -> str:
    return text.lower().replace("(", "-lrb-").replace(")", "-rrb-")


def _symbol(text: str) -> str:
    return text.lower().translate(SYMBOLS)


def _spaced(text: str) -> str:
    return text.lower().replace(" ", "\xa0")


def _joined(text: str) -> str:
    return _bracketed(_spaced(text))


def _clitic(text: str) -> str:
    text = _plain(text).replace("&apos;", "'")
    return re.sub("[’\x92]", "'", re.sub("[‘‛\x91]", "`", text))


@cache
def rules() -> list[tuple[re.Pattern[str], Callable[[str], str]]]:
    """Return each rule: what it matches, the token as the first group and what must follow behind it; and the token's
    spelling, with spaces where it is split. They are compiled at the first call, which takes a while."""
    apostrophe = "(?:['’\x92]|&apos;)"
    any_quote = "(?:['’‘‛`\x91\x92]|&apos;)"
    letter = "[A-Za-zé]"
    alnum = "[A-Za-z0-9é\xad]"
    accented = "&[aeiouAEIOU](?:acute|grave|uml);"
    word = rf"(?:{letter}|\u0301|{accented})(?:[A-Za-z0-9é\xad\u0301]|{accented})*"
    name = rf"(?:[dloDLO]{any_quote}{alnum}{{2,}}|{alnum}+)"
    part = rf"(?:[dlDLoO]{any_quote}{alnum}{{2,}}|{alnum}+|(?:{letter}\.){{2,}})"
    joined = rf"{name}(?:[-_\u2010]{part})*"
    firm = r"[A-Z]+(?:(?:&(?:amp;)?|\+)[A-Z]+)+"
    dotted = r"[A-Za-z0-9][A-Za-z0-9.,\xad]*(?:-(?:(?:[A-Za-z]\.){2,}|[A-Za-z0-9\xad]+))+"
    slashed = r"[A-Za-z0-9\xad]+(?:-[A-Za-z]+){0,2}"
    space = r"[ \t\n\xa0\u2000]"
    tag = (
        r"(?:<[A-Za-z][A-Za-z0-9_:.-]*(?: +[A-Za-z][A-Za-z0-9_:.-]*(?: *= *(?:\"[^\"]*\"|'[^']*'))?)* */? *>"
        r"|</[A-Za-z][A-Za-z0-9_:.-]* *>|<[!?][A-Za-z-][^>]*>)"
    )
    mailbox = r"[^ \t\n\"<>|(){}]"
    host = r"[^ \t\n\xa0\"<>|().{}]"
    label = r"(?:[^ \t\n\"`'<>|.!?(){},-_$]+\.)"
    # As many labels as possible, or as few, which leaves more to the path: the longer token wins.
    site, short_site = (
        rf"(?:(?i:www)\.(?:[^ \t\n\"<>|.!?(){{}},]+\.){many}[A-Za-z]{{2,4}}|{label}{many}(?i:com|net|org|edu))"
        for many in ("+", "+?")
    )
    eye = "[-^x=~<>']"
    end = "(?![A-Za-z0-9])"
    table: list[tuple[str, str, Callable[[str], str]]] = [  # token, what must follow, spelling
        # markup
        (tag, "", _spaced),
        ("&[lL][tT];", "", lambda _: "<"),
        ("&[gG][tT];", "", lambda _: ">"),
        ("&[aA][mM][pP];", "", lambda _: "&"),
        ("&nbsp;", "", lambda _: ""),
        ("(?i:&md;)|&[mn]dash;", "", lambda _: "--"),
        ("&quot;", "", lambda _: "''"),
        ("&apos;", "", lambda _: "'"),
        (r"&(?i:ht|tl|ur|lr|qc|ql|qr|odq|cdq|quot);|&#\d+;", "", str.lower),
        # contractions
        (r"[A-Za-z\xad]+?(?<![nN])", rf"[nN]{any_quote}[tT]", _plain),
        (rf"[nN]{any_quote}[tT]", "", _clitic),
        (rf"{alnum}+|{word}(?:[.!?]{word})*", rf"(?i:{apostrophe}(?:[smd]|ll|re|ve))", _plain),
        ("(?i:cannot|gonna|wanna|gotta|gimme|lemme)", end, lambda text: f"{text[:3]} {text[3:]}".lower()),
        ("'[tT]", "(?i:is|was)", str.lower),
        ("(?i:'(?:[smd]|ll|re|ve)(?![A-Za-z])|(?:[’\x92]|&apos;)(?:[smd]|ll|re|ve))", "", _clitic),
        (rf"(?i:{apostrophe}(?:em|till?|cause|n{apostrophe}|n(?=\s|$)|(?<!')n|[2-9]0s))", "", str.lower),
        (rf"{apostrophe}\d\d", f"(?:{space}|$)", str.lower),
        (rf"(?i:[djl]{apostrophe})", "", str.lower),
        (rf"(?i:y{apostrophe})", letter, str.lower),
        (rf"(?i:(?:dunkin|somethin|ol){apostrophe})", "", str.lower),
        (rf"(?i:o{any_quote}o)", "", str.lower),
        ("(?i:c'mon)", "", str.lower),
        (rf"(?i:(?:li|nat)'l|ev'ry|nor'easter|s'mores|cont'd\.|cap{apostrophe}n)", "", str.lower),
        (rf"(?i:(?:[oe]|ne){any_quote}er|o{any_quote}clock)", end, str.lower),
        (rf"{letter}+[aeiouyAEIOUY]{any_quote}[aeiouA-Z]{letter}*", "", _plain),
        # words
        (word, "", _plain),
        (joined, "", _plain),
        (rf"[A-HJ-XZn]{any_quote}[A-Za-zé\xad]{{2,}}", "", _plain),
        ("(?i:pro|anti)-", "", _plain),
        (rf"{slashed}(?:\\?/{slashed}){{1,2}}", "", _plain),
        (rf"(?:{word})(?:[.!?](?:{word}))+", "", _plain),
        # abbreviations
        (rf"{_any(TITLES)}\.", "", _plain),
        (rf"(?:{_any(ABBREVIATIONS)}|(?=[A-Z]){_any(CAPITAL_ABBREVIATIONS)})\.", r"[\s\S]{0,2}", _plain),
        (dotted, "", _plain),
        # numbers
        (r"[-+]?[.,:٫٬]?\d+(?:[.,:٫٬]\d+)*", "", _plain),
        (r"\d{1,4}[- \xa0]\d{1,4}(?:\\?/|⁄)\d{1,4}", "", _joined),
        (r"\d+⁄\d+|\d{1,2}[-/]\d{1,2}[-/]\d{2,4}", "", _plain),
        (r"(?:\(\d{2,3}\)[ \xa0]?|\+{0,2}(?:\d{2,4}[- \xa0])?\d{2,4}[- \xa0])\d{3,4}[- \xa0]?\d{3,5}", "", _joined),
        (r"\+{0,2}(?:\d{2,4}\.)?\d{2,4}\.\d{3,4}\.\d{3,5}", "", _plain),
        # other abbreviations
        (rf"{_any(NUMBER_ABBREVIATIONS)}\.", rf"{space}?\d", _plain),
        (rf"(?:{joined}|{dotted}|{firm}|{word}(?:[.!?]{word})*)\.", "[,;:]", _plain),
        (r"[A-Za-z](?:\.[A-Za-z])*\.", "", _plain),
        (r"[A-Za-z]", rf"\.{space}+(?:(?=[A-Z]){_any(STARTERS)}|{tag})(?:{space}|$)", _plain),
        (firm, "", lambda text: _plain(text.replace("&amp;", "&"))),
        (r"[cC]\+\+|[cCfF]#|[A-Z]+\$", "", _plain),
        (rf"{alnum}+(?:\.{alnum}+)*\.{_any(EXTENSIONS)}", r"(?:[\s.,!?]|$)", _plain),
        # addresses
        (rf"(?i:https?)://{mailbox}+[^ \t\n\"<>|(){{}}.,!?-]", "", str.lower),
        (site, "", str.lower),
        (rf"{short_site}/{mailbox}+[^ \t\n\"<>|.!?(){{}},-]", "", str.lower),
        (rf"(?:<|(?i:&lt;))?[A-Za-z0-9](?:(?!\xa0){mailbox})*@(?:{host}+\.)*{host}+>?", "", str.lower),
        ("@[A-Za-z_][A-Za-z0-9_]*", "", _plain),
        (rf"\#(?:{letter}|\u0301)+", "", _plain),
        # faces
        (r"[<>]?[:;=][-o*']?[()DPdpO@|\\[\]{]", "(?![A-Za-z0-9])", _bracketed),
        (rf"\({eye}[_.]?{eye}\)|{eye}_{eye}", "", _bracketed),
        # punctuation
        (r"\.{3,5}|\.(?:[ \xa0]\.){2,4}|[…\x85]", "", lambda _: "..."),
        ("[!?]+", "", str.lower),
        ("-{2,4}|[–—―\x96\x97]", "", lambda _: "--"),
        ("-{5,}", "", str.lower),
        ("[‘’‛‹›“”«»‚„‟\x91-\x94`]{1,2}", "", _symbol),
        (r"\*+|#+|@+|_+|²+|<<?|>>?|''|(?:\\\*)+", "", str.lower),
        (r"[^\0-\x1f\x7f\u0301\u2010\u2000\s]", "", _symbol),
    ]
    return [(re.compile(f"({token}){ahead}"), spell) for token, ahead, spell in table]
