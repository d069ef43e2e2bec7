"""What can be told of a message without a model: its language, and whether its letters are what was written.

Languages are told by script, and among those of Latin script by their commonest words. A contract may only accuse on
good grounds, and messages are short, so what is not plain is `und` and passes. A statistical identifier would name
more languages, and mistake more short messages, than a city's contract needs.
"""

import re
import unicodedata
from collections import Counter

UNKNOWN = "und"
_SCRIPTS = {
    "Han": "zh", "Hiragana": "ja", "Katakana": "ja", "Hangul": "ko", "Cyrillic": "ru", "Arabic": "ar", "Greek": "el",
    "Hebrew": "he", "Thai": "th", "Devanagari": "hi",
}  # fmt: skip
_RANGES = {
    "Han": "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f",
    "Hiragana": "\u3041-\u309f",
    "Katakana": "\u30a1-\u30ff",
    "Hangul": "\u1100-\u11ff\uac00-\ud7af",
    "Cyrillic": "\u0400-\u052f",
    "Arabic": "\u0600-\u06ff\u0750-\u077f",
    "Greek": "\u0370-\u03ff",
    "Hebrew": "\u0590-\u05ff",
    "Thai": "\u0e01-\u0e5b",
    "Devanagari": "\u0900-\u097f",
    "Latin": "A-Za-z\u00c0-\u024f",
}
_LETTERS = {name: re.compile(f"[{span}]") for name, span in _RANGES.items()}
_COMMON = {
    "en": "the of and to in is that it for was on are with as at be this have from not by i my we you has there our",
    "de": "der die und in den von zu das mit sich des auf für ist im dem nicht ein eine als auch es an ich wir sie hat",
    "fr": "le la les de des et en un une du que est pour qui dans il au sur pas plus par je vous nous ce cette avec a",
    "es": "el la los las de que y en un una por con no es se del para al lo como más su yo hay este esta muy",
    "it": "il la le di che e un una per non sono con del della è si da in come più anche ma ho gli al questo",
    "pt": "o a os as de que e do da em um uma para não com por se no na mais foi como eu há está muito ao",
    "nl": "de het een van en in is dat op te zijn met voor niet aan er die om ook ik we bij naar maar dit heeft",
    "pl": "i w na nie się z do to jest że o jak ale po co tak za od przez dla już są przy tym proszę",
    "tr": "ve bir bu da de için çok ne ile var mı ama daha gibi en olarak o ben kadar değil sonra yok",
}
_WORDS = {language: frozenset(words.split()) for language, words in _COMMON.items()}
_TOKEN = re.compile(r"\[[A-Z]+\]|https?://\S+")  # what masking put there, addresses of pages
_MOJIBAKE = re.compile("Ã[\u0080-\u00bf]|â€|Â[\u00a0-\u00bf]|锟斤拷|烫烫烫|ï»¿|ï¿½")
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\ufffd]")
_SAMPLE = 4000
"""Code points that are looked at for the language."""


def language(text: str) -> str:
    """ISO 639-1 code of the language that most of a message is in, or `und`."""
    text = _TOKEN.sub(" ", text[:_SAMPLE])
    found = Counter({name: len(letters.findall(text)) for name, letters in _LETTERS.items()})
    found["Latin"] = round(found["Latin"] / 2.5)  # a character of Han says as much
    if found["Hiragana"] + found["Katakana"] > 0.1 * found["Han"] and found["Hiragana"]:
        found["Hiragana"] += found.pop("Han")
    (script, most), *_ = found.most_common(1)
    if most < 2 or most < 0.5 * found.total():
        return UNKNOWN
    return _SCRIPTS.get(script) or _latin(text)


def _latin(text: str) -> str:
    words = re.findall(r"[^\W\d_]+", text.lower())
    hits = Counter({name: sum(word in common for word in words) for name, common in _WORDS.items()})
    (first, most), (_, second) = hits.most_common(2)
    sure = most >= 3 and most >= 0.15 * len(words) and most >= 1.5 * second
    return first if sure else UNKNOWN


def damage(text: str) -> str | None:
    """What shows that a message was read in the wrong encoding, or cut within a character; None: nothing does."""
    if match := _CONTROL.search(text):
        return (
            "a character that stands for damage" if match[0] == "\ufffd" else f"control character {ord(match[0]):#04x}"
        )
    if len(_MOJIBAKE.findall(text)) >= 2 or "锟斤拷" in text:
        return "UTF-8 that was read as another encoding"
    han = _LETTERS["Han"].findall(text)
    if len(han) >= 4:  # UTF-8 taken for GBK is Chinese to the eye, and turns back into UTF-8, which no Chinese does
        back = [c for c in text.encode("gb18030", "ignore").decode("utf-8", "replace") if c > "\x7f"]
        if back.count("\ufffd") <= 0.2 * len(back):
            return "UTF-8 that was read as GBK"
    return None


def normal(text: str) -> str:
    """The text by which duplicates are known: width, case and blanks apart."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())
