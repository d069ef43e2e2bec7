# ruff: noqa: E501 - a maker stands on a line
"""Personal data found in generated messages: recall and precision by kind, speed, and what is masked in real messages.

A list of forms (benchmarks/personal/*.yaml) gives, a kind and language, how things are written and the sentences they
stand in, and sentences that hold none. `faker` draws from forms of a library's authors instead.

    python benchmarks/privacy.py --forms development
    python benchmarks/privacy.py --real FILE.csv
"""

import argparse
import csv
import gzip
import random
import re
import string
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

from pipelines.core import personal

HERE = Path(__file__).parent / "personal"
LETTERS = "ABCDEFGHJKLMNPRSTUVWXYZ"
# A message: text, and (start, end, kind) of each thing in it that is personal.
Message = tuple[str, list[tuple[int, int, str]]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--forms", default="development", help="development, held_out, … or faker")
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--misses", type=int, default=0, help="show so many of what went wrong, a kind")
    parser.add_argument("--real", type=Path, help="a CSV (.gz) with a column `message`: show what is masked in it")
    parser.add_argument(
        "--peer", action="store_true", help="telephones by phonenumbers' matcher instead, for comparison"
    )
    given = parser.parse_args()
    if given.real:
        real(given.real, given.misses)
        return
    messages = list(
        faked(given.count, given.seed) if given.forms == "faker" else made(given.forms, given.count, given.seed)
    )
    if given.peer:
        peer(messages)
        return
    began = time.process_time()
    masked = personal.mask_all(text for text, _ in messages)
    seconds = time.process_time() - began
    print(score(messages, masked, given.misses))
    characters = sum(len(text) for text, _ in messages)
    print(
        f"{len(messages)} messages of {characters / len(messages):.0f} characters: {len(messages) / seconds:,.0f} a second"
    )


# Making ------------------------------------------------------------------------------------------------------------


def made(name: str, count: int, seed: int) -> Iterator[Message]:
    """Messages in equal shares of the kinds and half as many again without any; each kind's languages in equal shares."""
    listed = yaml.safe_load((HERE / f"{name}.yaml").read_text())
    rng = random.Random(seed)
    fill = Filler(rng, listed["words"])
    kinds = [(kind, languages) for kind, languages in listed["kinds"].items()]
    for i in range(count):
        if i % 3 == 2:
            text = "".join(fill(rng.choice(listed["negatives"][language])) + " " for language in ("zh", "en"))
            yield text, []
            continue
        kind, languages = kinds[(i - i // 3) % len(kinds)]
        language = rng.choice(sorted(languages))
        aside = listed["negatives"]["zh" if language.startswith("zh") else "en"]
        before, after = rng.choice(languages[language]["frames"]).split("{x}")
        before = (fill(rng.choice(aside)) + " " if rng.random() < 0.3 else "") + fill(before)
        value = fill(rng.choice(languages[language]["forms"]))
        after = fill(after) + (" " + fill(rng.choice(aside)) if rng.random() < 0.3 else "")
        yield before + value + after, [(len(before), len(before) + len(value), kind)]


class Filler:
    """Fills {name}, {name:pattern} and {name!way:pattern} in a template: a word of the list, or a value made here.

    In a pattern each # takes the value's next character. `d` is a pattern of its own: # a digit, % one but zero, A and a
    a letter. `n` is a number of a range. Ways: wide, zw (unseen characters between), han, yao, lower.
    """

    def __init__(self, rng: random.Random, words: dict[str, list[str]]) -> None:
        self.rng, self.words = rng, words

    def __call__(self, template: str) -> str:
        return re.sub(r"\{(\w+)(?:!(\w+))?(?::([^}]*))?\}", self._one, template)

    def _one(self, match: re.Match[str]) -> str:
        name, way, pattern = match.groups()
        if name == "d":
            value = self.drawn(pattern)
        elif name == "n":
            low, high = map(int, pattern.split("-"))
            value = str(self.rng.randint(low, high))
        else:
            value = self.rng.choice(self.words[name]) if name in self.words else MAKERS[name](self)
            if pattern:
                taken = iter(value)
                value = "".join(next(taken, "") if c == "#" else c for c in pattern) + "".join(taken)
        return WAYS[way](value, self.rng) if way else value

    def drawn(self, pattern: str) -> str:
        of = {"#": string.digits, "%": string.digits[1:], "A": LETTERS, "a": LETTERS.lower()}
        return "".join(self.rng.choice(of[c]) if c in of else c for c in pattern)

    def until(self, pattern: str, right: Callable[[str], bool]) -> str:
        while not right(value := self.drawn(pattern)):
            pass
        return value


def _valid(module: str) -> Callable[[str], bool]:
    import importlib

    return importlib.import_module(f"stdnum.{module}").is_valid


def _luhn(pattern: str) -> Callable[[Filler], str]:
    return lambda f: f.until(pattern, _valid("luhn"))


def _dated(f: Filler, years: tuple[int, int], form: str) -> str:
    return f"{f.rng.randint(*years):04}{f.rng.randint(1, 12):02}{f.rng.randint(1, 28):02}"[-len(form) :]


def _cn18(f: Filler) -> str:
    body = (
        f.rng.choice(("110101", "310115", "440305", "510107", "330106"))
        + _dated(f, (1940, 2010), "yyyymmdd")
        + f.drawn("###")
    )
    from stdnum.cn import ric

    return body + ric.calc_check_digit(body + "0")


def _iban(country: str, body: str) -> Callable[[Filler], str]:
    def make(f: Filler) -> str:
        account = f.drawn(body)
        digits = "".join(str(int(c, 36)) for c in account + country + "00")
        return f"{country}{98 - int(digits) % 97:02}{account}"

    return make


def _hkid(f: Filler) -> str:
    head = f.drawn("A######")
    total = 324 + sum((8 - i) * (int(c, 36) if c.isdigit() else ord(c) - 55) for i, c in enumerate(head))
    return f"{head}({'0123456789A'[-total % 11]})"


def _codice(f: Filler) -> str:
    from stdnum.it import codicefiscale

    body = f.drawn("AAAAAA##") + f.rng.choice("ABCDEHLMPRST") + f"{f.rng.randint(1, 28):02}" + f.drawn("A###")
    return body + codicefiscale.calc_check_digit(body)


def _nir(f: Filler) -> str:
    body = f.rng.choice("12") + f"{f.rng.randint(0, 99):02}{f.rng.randint(1, 12):02}75" + f.drawn("######")
    return f"{body}{97 - int(body) % 97:02}"


MAKERS: dict[str, Callable[[Filler], str]] = {
    "mobile": lambda f: f.rng.choice(("13", "15", "17", "18", "19", "14", "16")) + f.drawn("#########"),
    "cn18": _cn18,
    "cn15": lambda f: f.rng.choice(("110101", "310115", "440305")) + _dated(f, (1930, 1985), "yymmdd") + f.drawn("###"),
    "hkid": _hkid,
    "twid": lambda f: f.drawn("A1########"),
    "us_ssn": lambda f: f.until("#########", lambda v: _valid("us.ssn")(v)),
    "nino": lambda f: f.rng.choice(("AB", "JG", "PW", "CE")) + f.drawn("######") + f.rng.choice("ABCD"),
    "bsn": lambda f: f.until("%########", _valid("nl.bsn")),
    "dni": lambda f: f.until("########A", _valid("es.dni")),
    "codice": _codice,
    "nir": _nir,
    "pesel": lambda f: f.until("8#0##1#####", _valid("pl.pesel")),
    "personnummer": lambda f: f.until("8#0##1####", _valid("se.personnummer")),
    "be_nn": lambda f: f.until("8#0##1#####", _valid("be.nn")),
    "cpf": lambda f: f.until("###########", _valid("br.cpf")),
    "aadhaar": lambda f: f.until("%###########", _valid("in_.aadhaar")),
    "rrn": lambda f: f.until("8#0##11######", _valid("kr.rrn")),
    "hetu": lambda f: f.until("1#0#8#-###A", _valid("fi.hetu")),
    "nric": lambda f: "S" + f.drawn("#######A"),
    "sin": lambda f: f.until("%########", _valid("ca.sin")),
    "union": _luhn("62#################"),
    "union16": _luhn("62##############"),
    "visa": _luhn("4###############"),
    "master": _luhn("5%##############"),
    "amex": _luhn("37#############"),
    "diners": _luhn("36############"),
    "iban_de": _iban("DE", "##################"),
    "iban_nl": _iban("NL", "AAAA##########"),
    "iban_gb": _iban("GB", "AAAA##############"),
    "iban_fr": _iban("FR", "#######################"),
    "iban_be": _iban("BE", "############"),
    "iban_ch": _iban("CH", "#################"),
    "iban_no": _iban("NO", "###########"),
    "iban_pl": _iban("PL", "########################"),
    "iban_es": _iban("ES", "####################"),
    "iban_it": _iban("IT", "A######################"),
    "ip": lambda f: ".".join(str(f.rng.randint(1, 254)) for _ in range(4)),
    "ip6": lambda f: ":".join(f"{f.rng.randint(4096, 65535):x}" for _ in range(8)),
    "ip6short": lambda f: f"2001:db8:{f.rng.randint(1, 9999):x}::{f.rng.randint(16, 65535):x}",
    "lat": lambda f: f"{f.rng.uniform(20, 53):.{f.rng.randint(4, 7)}f}",
    "lon": lambda f: f"{f.rng.uniform(73, 135):.{f.rng.randint(4, 7)}f}",
}


WAYS: dict[str, Callable[[str, random.Random], str]] = {
    "wide": lambda v, _: "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in v),
    "zw": lambda v, rng: "".join(c + ("\u200b" if rng.random() < 0.3 else "") for c in v[:-1]) + v[-1],
    "han": lambda v, _: v.translate(str.maketrans("0123456789", "零一二三四五六七八九")),
    "yao": lambda v, _: v.translate(str.maketrans("0123456789", "零幺二三四五六七八九")),
    "lower": lambda v, _: v.lower(),
}


def faked(count: int, seed: int) -> Iterator[Message]:
    """Messages by Faker's own providers, of forms that its authors wrote, in plain frames."""
    from faker import Faker

    rng = random.Random(seed)
    Faker.seed(seed)
    places = {
        p: Faker(p) for p in ("zh_CN", "en_GB", "en_US", "nl_NL", "de_DE", "fr_FR", "es_ES", "it_IT", "pl_PL", "sv_SE")
    }
    draws: dict[str, tuple[Callable[[Any], str], str, str]] = {
        "phone": (lambda f: f.phone_number(), "电话{x}，请回电", "My phone is {x}, thanks"),
        "identity": (lambda f: f.ssn(), "身份证号{x}，请查", "My ID number is {x}."),
        "plate": (lambda f: f.license_plate(), "车牌{x}乱停", "A car with plate {x} parks here"),
        "email": (lambda f: f.email(), "邮箱{x}，谢谢", "Write to {x} please"),
        "card": (lambda f: f.credit_card_number(), "银行卡{x}没到账", "I paid with {x} twice"),
        "iban": (lambda f: f.iban(), "请退到{x}，谢谢", "Refund to {x} please"),
        "ip": (lambda f: rng.choice((f.ipv4, f.ipv6))(), "从{x}打不开网站", "The site refuses {x} since Monday"),
        "name": (lambda f: f.name(), "我叫{x}，住在附近", "My name is {x}."),
        "address": (lambda f: f.street_address(), "家住{x}，停水", "I live at {x}."),
        "gps": (lambda f: "{}, {}".format(*f.latlng()), "坐标{x}处有坑", "The hole is at {x} by the bench"),
        "account": (lambda f: f.user_name(), "微信号：{x}", "my Twitter handle is {x}, look"),
        "passport": (lambda f: f.passport_number(), "护照号{x}", "Passport number {x} is lost"),
    }
    for _ in range(count):
        kind, place = rng.choice(sorted(draws)), rng.choice(sorted(places))
        draw, chinese, english = draws[kind]
        before, after = (chinese if place == "zh_CN" else english).split("{x}")
        value = draw(places[place]).replace("\n", ", ")
        yield before + value + after, [(len(before), len(before) + len(value), kind)]


# Judging -----------------------------------------------------------------------------------------------------------


def score(messages: list[Message], masked: list[personal.Masked], misses: int = 0) -> str:
    """Markdown, a row a kind. Found: wholly masked. Right kind: also by its own token. Precision: masks that touch a
    thing that is personal, by the mask's kind."""  # fmt: skip
    there, found, kindly, masks, right = Counter[str](), Counter[str](), Counter[str](), Counter[str](), Counter[str]()
    wrong: dict[str, list[str]] = {}
    for (text, things), result in zip(messages, masked, strict=True):
        named = {personal.TOKENS[kind]: kind for kind in personal.KINDS}
        cuts = [(a, b, named[result.text[c:d]]) for a, b, c, d in result.cuts]
        for start, end, kind in things:
            there[kind] += 1
            hidden = {i for a, b, _ in cuts for i in range(max(a, start), min(b, end))}
            bare = [c for i, c in enumerate(text[start:end], start) if i not in hidden and c.isalnum()]
            found[kind] += not bare
            kindly[kind] += any(k == kind and a < end and b > start for a, b, k in cuts)
            if bare:
                wrong.setdefault(f"missed {kind}", []).append(
                    f"{text[max(0, start - 12) : end + 8]!r} → {result.text!r}"
                )
        for a, b, kind in cuts:
            touched = any(a < end and b > start for start, end, _ in things)
            masks[kind] += 1
            right[kind] += touched
            if not touched:
                wrong.setdefault(f"false {kind}", []).append(
                    f"{text[max(0, a - 12) : a]}⟦{text[a:b]}⟧{text[b : b + 8]}"
                )
    lines = ["| kind | in the texts | recall | by its own token | masks | precision |", "|---" * 6 + "|"]
    for kind in (*personal.KINDS, "all"):
        t, f, k, m, r = (c.total() if kind == "all" else c[kind] for c in (there, found, kindly, masks, right))
        lines.append(f"| {kind} | {t} | {f / max(t, 1):.4f} | {k / max(t, 1):.4f} | {m} | {r / max(m, 1):.4f} |")
    for what, examples in sorted(wrong.items()) if misses else ():
        lines += [
            f"{what}: {len(examples)}",
            *(f"    {e}" for e in dict.fromkeys(examples[: 20 * misses : 20] + examples[:misses])),
        ]
    return "\n".join(lines)


def peer(messages: list[Message]) -> None:
    """Telephones by the matcher of phonenumbers, told which country; and by ours."""
    import phonenumbers

    held = [(text, things) for text, things in messages if all(k == "phone" for *_, k in things)]
    began = time.process_time()
    theirs = []
    for text, _ in held:
        region = "CN" if re.search("[\u4e00-\u9fff]", text) else "GB"
        theirs.append([(m.start, m.end) for m in phonenumbers.PhoneNumberMatcher(text, region)])
    seconds = time.process_time() - began
    began = time.process_time()
    ours = [[(a, b) for a, b, *_ in m.cuts] for m in personal.mask_all(text for text, _ in held)]
    for name, took, spans in (("phonenumbers", seconds, theirs), ("here", time.process_time() - began, ours)):
        pairs = [(things[0], s) for (_, things), s in zip(held, spans, strict=True) if things]
        hit = sum(any(a <= t[0] and b >= t[1] for a, b in s) for t, s in pairs)
        extra = sum(len(s) for (_, things), s in zip(held, spans, strict=True) if not things)
        print(
            f"{name}: recall {hit / len(pairs):.4f}, finds in messages without any {extra}, {len(held) / took:,.0f} a second"
        )


def real(path: Path, show: int) -> None:
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
        texts = [" ".join((row.get("subject", ""), row["message"])) for row in csv.DictReader(file)]
    began = time.process_time()
    masked = personal.mask_all(texts)
    seconds = time.process_time() - began
    print(f"{len(texts)} messages of {sum(map(len, texts)) / len(texts):.0f} characters: {len(texts) / seconds:,.0f} a second, "
          f"{sum(bool(m.cuts) for m in masked)} with a find")  # fmt: skip
    print(dict(sum((Counter(m.found) for m in masked), Counter())))
    seen: dict[str, list[str]] = {}
    for text, result in zip(texts, masked, strict=True):
        for a, b, c, d in result.cuts:
            seen.setdefault(result.text[c:d], []).append(
                f"{text[max(0, a - 12) : a]}⟦{text[a:b]}⟧{text[b : b + 8]}".replace("\n", " ")
            )
    for token, finds in sorted(seen.items()):
        random.Random(1).shuffle(finds)
        print(token, len(finds), *finds[:show], sep="\n    ")


if __name__ == "__main__":
    main()
