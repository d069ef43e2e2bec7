# ruff: noqa: E501 - a pattern is read as a whole
"""Personal data of digits and letters: telephones, identity, cards, plates, mail, handles, addresses of machines, places.

Each pattern is bounded, so that a search takes time linear in the text; what only a checksum tells apart is left to
python-stdnum, called on candidates alone.
"""

import contextlib
import importlib
import ipaddress
import re
from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import pairwise

from pipelines.core.personal_finds import SEP, Find, compiled, groups, spelled

# Telephones ----------------------------------------------------------------------------------------------------------
DIGIT_RUN = rf"\d(?:{SEP}\d)"
MOBILE = compiled(rf"""1(?<![0-9]1)(?<![0-9][.,]1) (?:{SEP}\d){{10}} (?![0-9])""")
MOBILE_86 = compiled(rf"(?<![0-9])(?:\+|00)?[(]?\+?86[) .·-]{{0,3}}1{SEP}[3-9](?:{SEP}\d){{9}}(?![0-9])")
ABROAD = compiled(
    r"(?:\+(?<![0-9A-Za-z]\+)|00(?<![0-9A-Za-z]00)(?=[1-9]))[ (]?[1-9](?:[ .()/·-]{0,3}\d){6,14}(?![0-9])(?:[ ]?(?:x|ext[.]?|转|分机)[ ]?\d{1,6}(?![0-9]))?"
)
INLAND = compiled(r"""
    [(]?0(?<![0-9A-Za-z.,+-]0)(?<![0-9A-Za-z.,+-][(]0)[1-9](?:[ .·/()-]{0,3}\d){7,10}(?![0-9])
    (?:[ ]?(?:转|分机|ext[.]?|x|-)[ ]?\d{1,6}(?![0-9]))?""")
AMERICAN = compiled(
    r"(?:1[ .-])?[(]?[2-9](?<![0-9][2-9])\d\d(?:[)][ ]?|[ .-])\d{3}[ .-]\d{4}(?![0-9])(?:[ ]?(?:x|ext[.]?|转|分机)[ ]?\d{1,6}(?![0-9]))?"
)
CALLED = compiled(
    r"""
    (?:电话|手机|号码|座机|致电|拨打|拨|联系方式|传真|热线|联系我|(?<![A-Za-z])(?:tel|phone|telephone|mobile|mob|cell|call|text|ring|
    whatsapp|fax|reach[ ]me|telefoon|Telefon|Handy)(?![A-Za-z]))
    [^0-9\n,;，。；\[\]]{0,14}? (?P<x>[(]?[+]?\d(?:[ .·()-]{0,3}\d){6,13}) (?![0-9]|[.,]\d|[ ]?(?:元|块|万|户|人|%|号文))""",
    re.I,
)
SAME_DAY = re.compile(
    r"(?<!\d)(?:(?:19|20)\d\d([-./ ])[01]?\d\1[0-3]?\d|[0-3]?\d([-./ ])[01]?\d\2(?:19|20)\d\d|(?:19|20)\d\d[-/](?:(?:19|20)\d\d|[0-3]\d))(?!\d)"
)

# Identity ------------------------------------------------------------------------------------------------------------
CHINESE = compiled(rf"[1-9](?<![0-9A-Za-z][1-9])(?:{SEP}\d){{14}}(?:(?:{SEP}\d){{2}}{SEP}[0-9Xx])?(?![0-9A-Za-z])")
PROVINCES = spelled(
    "11 12 13 14 15 21 22 23 31 32 33 34 35 36 37 41 42 43 44 45 46 50 51 52 53 54 61 62 63 64 65 71 81 82 83"
)
VALUE = r"(?:[A-Za-z]{0,6}[.-]?|(?-i:[A-Z]{1,3})[ ])\d[0-9A-Za-z]{0,20}(?:[ ./-]{1,2}(?=[A-Za-z]{0,3}\d)[0-9A-Za-z]{1,20}){0,7}(?:[ -][A-Z](?![A-Za-z]))?(?:[(][0-9A][)])?"
IDENTIFIED = compiled(
    rf"""
    (?:身份证|证件号|公民身份|居住证|身份号|社保卡|社会保障|社保号|(?<![A-Za-z])(?:ID|I[.]D[.]|identity|identification|SSN|social[ ]security|
    national[ ]insurance|NINO|BSN|burgerservicenummer|Personalausweis|Steuer-?ID|DNI|NIE|PESEL|CPF|Aadhaar|NHS|SIN|NRIC|HKID|personnummer|
    codice[ ]fiscale|tax[ ](?:ID|number)|citizen[ ]service)(?![A-Za-z]))
    [^0-9\n;。；\[\]]{{0,16}}?(?<![0-9A-Za-z])(?P<x>{VALUE})(?![0-9A-Za-z])""",
    re.I,
)
NOT_OF_PEOPLE = re.compile(
    r"(?<![A-Za-z])(?:case|order|ticket|request|report|transaction|device|app|product|page|item|asset|lamp|pole|bike)[ -]$|(?:编号|单号|订单|订单号|文号)[:：为是 ]{0,2}$",
    re.I,
)
# Forms that stand alone, and the module of python-stdnum that knows a real one (None: the form is enough).
FOREIGN: tuple[tuple[re.Pattern[str], str | None], ...] = tuple(
    (compiled(rf"(?<![0-9A-Za-z.-])(?:{form})(?![0-9A-Za-z]|[.-]\d)"), module)
    for form, module in (
        (r"\d{3}-\d{2}-\d{4}", "us.ssn"),
        (r"\d{8}-?[A-HJ-NP-TV-Z]", "es.dni"),
        (r"[XYZ]-?\d{7}-?[A-HJ-NP-TV-Z]", "es.nie"),
        (r"[A-Za-z]{6}\d\d[A-Za-z]\d\d[A-Za-z]\d{3}[A-Za-z]", "it.codicefiscale"),
        (r"\d{6}[-+A]\d{3}[0-9A-Y]", "fi.hetu"),
        (r"(?:\d\d)?\d{6}[-+]\d{4}", "se.personnummer"),
        (r"\d{6}-[1-8]\d{6}", None),
        (r"\d{3}[.]\d{3}[.]\d{3}-\d\d", "br.cpf"),
        (r"\d\d[.]\d\d[.]\d\d-\d{3}[.]\d\d", "be.nn"),
        (r"[A-Z]{1,2}\d{6}[(][0-9A][)]", None),
        (r"[A-Z][12]\d{8}", None),
        (r"[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z][ ]?\d\d[ ]?\d\d[ ]?\d\d[ ]?[A-D]", None),
        (r"[12][ ]?\d\d[ ]?(?:0[1-9]|1[0-2])[ ]?\d[0-9AB][ ]?\d{3}[ ]?\d{3}[ ]?\d\d", "fr.nir"),
        (r"[STFGM]\d{7}[A-Z]", None),
        (r"[2-9]\d{3}[ ]\d{4}[ ]\d{4}", "in_.aadhaar"),
    )
)

# Cards, accounts with banks ------------------------------------------------------------------------------------------
CARD = compiled(rf"[1-69](?<![0-9A-Za-z][1-69])(?<![0-9][.-][1-69])(?:{SEP}\d){{11,22}}(?![0-9])")
MAESTRO = re.compile("5018|5020|5038|5[6-8]|63|67")
BRANDS = re.compile(r"4|5|6|3[05-9]|34|2[2-7]|95|1800|2131")
CARDED = compiled(
    r"""
    (?:银行卡|卡号|账号|账户|帐号|帐户|工资卡|存折|信用卡|储蓄卡|(?<![A-Za-z])(?:card|account)(?:[ ]n(?:o|umber|r))?(?![A-Za-z]))
    [^0-9\n,;，。；\[\]]{0,14}?(?P<x>\d(?:[ .·-]{0,2}\d){11,18})(?![0-9])""",
    re.I,
)
IBAN_LENGTHS = {
    country: length
    for length, countries in {
        15: "NO", 16: "BE", 18: "DK FO FI GL NL SD", 19: "MK SI", 20: "AT BA EE KZ LT LU XK", 21: "CH HR LI LV", 27: "FR GR IT MC MR SM",
        22: "BG BH CR DE GB GE IE ME RS VA", 23: "AE GI IL IQ OM SO TL", 24: "AD CZ ES MD PK RO SA SE SK TN VG", 25: "LY PT ST", 26: "IS TR",
        28: "AL AZ BY CY DO GT HU LB NI PL SV", 29: "BR EG PS QA UA", 30: "JO KW MU", 31: "MT SC", 33: "RU",
    }.items()
    for country in countries.split()
}  # fmt: skip
IBAN = compiled(r"[A-Za-z](?<![0-9A-Za-z][A-Za-z])[A-Za-z][ ]?\d\d(?:[ -]?[0-9A-Za-z]){11,40}")
PASSPORT = compiled(
    r"""
    (?:护照|通行证|回乡证|台胞证|(?<![A-Za-z])(?:passport|paspoort(?:nummer)?|Reisepass(?:nummer)?|passeport|pasaporte)(?![A-Za-z]))[^0-9\n,;，。；\[\]]{0,24}?
    (?<![0-9A-Za-z])(?P<x>(?=[A-Za-z]{0,3}[ -]?\d)(?=(?:[ -]?[A-Za-z]){0,9}(?:[ -]?\d){2})[A-Za-z]{0,3}(?:[ -]?\d){2}(?:[ -]?[0-9]|[A-Z]){4,8})
    (?![0-9A-Za-z])""",
    re.I,
)
ZONE = compiled(r"P[A-Z<][A-Z]{3}[A-Z<]{20,39}(?:\s{0,3}[A-Z0-9<]{44})?")

# Vehicles ------------------------------------------------------------------------------------------------------------
PLACES = "京津沪渝冀豫云辽黑湘皖鲁新苏浙赣鄂桂甘晋蒙陕吉闽贵粤青藏川宁琼"
PLATE = compiled(rf"""
    [{PLACES}使领军][ ·-]?(?P<first>[A-Za-z])[ ·.-]{{0,3}}(?P<rest>(?:[ ·-]?[A-HJ-NP-Za-hj-np-z0-9]){{4,6}}[学警港澳挂领使]?)(?![0-9A-Za-z])
    |WJ[ ]?[{PLACES}]?[ ]?[0-9]{{4,5}}(?![0-9])|使[ ]?[0-9]{{3}}[ ·]?[0-9]{{3}}(?![0-9])""")
EUROPEAN = compiled(r"""(?<![0-9A-Za-z-])(?:
    [A-Z]{2}-\d{3}-[A-Z]{1,2} | \d{1,2}-[A-Z]{2,3}-\d{1,2} | [A-Z]{2}-\d{2}-(?:[A-Z]{2}|\d{2}) | \d{2}-[A-Z]{2}-[A-Z]{2} | \d{2}-\d{2}-[A-Z]{2}
    | [A-Z]-\d{3}-[A-Z]{2} | [A-Z]{3}-\d{2}-[A-Z] | \d-[A-Z]{2}-\d{3} | [A-Z]{2}-[A-Z]{2}-\d{2} | \d-[A-Z]{3}-\d{3} | \d{3}-[A-Z]{2}-\d | [A-Z]{2}-\d{2}-[A-Z]{3}
    | [A-ZÄÖÜ]{1,3}-[A-Z]{1,2}[ ]\d{2,4}[EH]? | [A-HJ-PR-Y][A-HJ-PR-Y]\d{2}[ ][A-HJ-PR-Z]{3}
    )(?![0-9A-Za-z]|-[0-9A-Z])""")
PLATED = compiled(r"""
    (?:车牌|车号|牌照|号牌|(?<![A-Za-z])(?:(?:number|licen[cs]e|license)?[ -]?plates?|registration|reg|kenteken|Kennzeichen|immatriculation|
    matr[ií]cula|targa)(?![A-Za-z]))
    [^0-9A-Z\n,;，。；\[\]]{0,12}?(?<![0-9A-Za-z])
    (?P<x>(?-i:[A-Z0-9]{1,4}(?:[ ·-]{0,2}[A-Z0-9]{1,6}){1,3})|[a-z0-9]{0,3}\d[a-z0-9]{3,5})(?![0-9A-Za-z])""")

# Mail, accounts, machines --------------------------------------------------------------------------------------------
L = "A-Za-z\u00c0-\u024f"
MAIL = compiled(rf"(?:mailto:)?[{L}0-9._%+-]{{1,64}}[ ]?@[ ]?[{L}0-9-]{{1,63}}(?:[.。][{L}0-9-]{{1,63}}){{1,6}}")
MAIL_SAID = compiled(r"""
    [A-Za-z0-9._%+-]{1,64}(?:[ ]?[\[({<][ ]?(?:at|@|AT)[ ]?[\])}>][ ]?[A-Za-z0-9-]{1,63} | [ ](?:at|AT)[ ][A-Za-z0-9-]{1,63}(?=[ ](?:dot|DOT)[ ]))
    (?:[ ]?(?:[.]|[\[({<][ ]?(?:dot|DOT)[ ]?[\])}>]|[ ](?:dot|DOT)[ ])[ ]?[A-Za-z0-9-]{1,63}){1,6}""")
KNOWN_AS = compiled(
    r"""
    (?P<where>微信|薇信|威信|V信|QQ|扣扣|企鹅|钉钉|支付宝|抖音|快手|微博|小红书|淘宝|陌陌|
    (?<![A-Za-z])(?:wechat|weixin|vx|wx|telegram|twitter|instagram|insta|facebook|skype|line|snapchat|tiktok|signal|discord|weibo|linkedin)(?![A-Za-z]))
    (?P<link>[ ]?(?:账号|帐号|账户|用户名|昵称|群号|群|号码|号|ID|user[ ]?name|handle|account|name|number|no[.])?[ ]?(?:是|为|is|as)?[ ]?[:=]?[ ]?[(]?)
    (?P<x>@?[A-Za-z0-9][A-Za-z0-9_.-]{3,31}(?<![.-]))(?![0-9A-Za-z@])""",
    re.I,
)
LINKED = re.compile(r"号|ID|name|handle|account|number|no[.]", re.I)
IP4 = compiled(
    r"(?<![0-9.])(?:25[0-5]|2[0-4]\d|1?\d?\d)(?:[.](?:25[0-5]|2[0-4]\d|1?\d?\d)){3}(?![0-9]|[.][0-9])(?::\d{1,5}(?![0-9]))?"
)
IP6 = compiled(
    r"(?<![0-9A-Za-z])(?:[0-9A-Fa-f]{1,4}(?::[0-9A-Fa-f]{0,4}){2,7}|::[0-9A-Fa-f]{1,4}(?::[0-9A-Fa-f]{1,4}){0,6})(?:[:]?(?:\d{1,3}[.]){3}\d{1,3})?(?![0-9A-Za-z:]|[.][0-9])"
)
# Beside numbers of houses, flats, clauses.
LISTED = frozenset("号栋幢座楼室层户条款期项第型")
RELEASE = re.compile(
    r"(?:v|ver|version|版本|版本号|firmware|release|build|iOS|Android|chapter|section)[ :.：]{0,2}$", re.I
)

# Places on the globe -------------------------------------------------------------------------------------------------
DEGREES = r"[+-]?(?<![0-9.])\d{1,3}[.]\d{4,12}(?![0-9])"
PAIR = compiled(
    rf"(?:geo:)?{DEGREES}[ ]?°?[ ]?[NSEWnsew]?(?:[ ]?[,，;/|、][ ]?|[ ]){DEGREES}[ ]?°?[ ]?(?:[NSEW](?![A-Za-z]))?"
)
SIDE = r"(?:\d{1,3}[ ]?(?:°|度|deg)[ ]?(?:\d{1,2}(?:[.]\d{1,8})?[ ]?(?:'|’|分|min)[ ]?(?:\d{1,2}(?:[.]\d{1,8})?[ ]?(?:\"|”|''|秒)?)?)?|\d{1,3}[.]\d{2,12}[ ]?[°度]?)"
SIDED = compiled(
    rf"""(?:北纬|南纬|东经|西经|纬度|经度|[NSEW](?<![A-Za-z][NSEW])|(?<![A-Za-z])(?:lat|latitude|lon|lng|long|longitude)(?![A-Za-z]))[ ]?[:=是为]?[ ]?[+-]?{SIDE}
    |(?<![0-9.]){SIDE}[ ]?[NSEW](?![A-Za-z])|(?<![0-9.])\d{{1,3}}[ ]?°[ ]?\d{{1,2}}[ ]?'[ ]?\d{{1,2}}(?:[.]\d{{1,6}})?[ ]?\"""",
    re.I,
)

# Cheap searches that say which of the patterns are worth running.
NUMBER = re.compile("[0-9]")
LONG = re.compile(r"[0-9](?:[ .()/·A-Za-z+-]{0,3}[0-9]){4}")
DOTTED = re.compile(r"[0-9][.][0-9]{1,3}[.][0-9]")
ANGLE = re.compile("[0-9][.][0-9]{2}|[0-9] ?[°度]")
LETTER_BY_DIGIT = re.compile("[A-Z][ -][0-9]|[0-9][ -][A-Z]")
AT_SAID = re.compile(r"[\[({<] ?(?:at|AT|@)| (?:dot|DOT) ")


def _when(latin: str, han: str) -> Callable[[str, frozenset[str]], bool]:
    """Whether a text has one of the words."""
    some, pattern = frozenset(latin.split()), re.compile(han)
    return lambda text, words: not some.isdisjoint(words) or pattern.search(text) is not None


CALLS = _when(
    "tel phone telephone mobile mob cell call text ring whatsapp fax reach telefoon telefon handy",
    "电话|手机|号码|座机|致电|拨|联系|传真|热线",
)
IDENTIFIES = _when(
    "id i identity identification ssn social national nino bsn burgerservicenummer personalausweis steuer steuerid dni nie pesel cpf aadhaar "
    "nhs sin nric hkid personnummer codice tax citizen", "身份|证件|居住证|社保|社会保障")  # fmt: skip
CARRIES = _when("card account", "银行卡|卡号|账号|账户|帐号|帐户|工资卡|存折|信用卡|储蓄卡")
TRAVELS = _when(
    "passport paspoort paspoortnummer reisepass reisepassnummer passeport pasaporte", "护照|通行证|回乡证|台胞证|<<<"
)
DRIVES = _when("plate plates registration reg kenteken kennzeichen immatriculation matr matricula targa", "牌|车号")
CHATS = _when(
    "wechat weixin vx wx qq telegram twitter instagram insta facebook skype line snapchat tiktok signal discord weibo linkedin",
    "微信|薇信|威信|V信|QQ|扣扣|企鹅|钉钉|支付宝|抖音|快手|微博|小红书|淘宝|陌陌")  # fmt: skip


def finds(text: str, words: frozenset[str]) -> list[Find]:
    """Finds in a text of usual digits and signs whose Latin words are given, in lower case. In no order; may overlap."""
    found: list[Find] = []
    if "@" in text:
        found += groups(MAIL, text, "email")
    if AT_SAID.search(text):
        found += groups(MAIL_SAID, text, "email")
    if CHATS(text, words):
        found += _accounts(text)
    if not NUMBER.search(text):
        return found
    if text.count(":") > 1 or DOTTED.search(text):
        found += _machines(text)
    if ANGLE.search(text):
        found += _coordinates(text)
    found += _plates(text, words)
    if LONG.search(text):
        found += _telephones(text, words)
        found += _identities(text, words)
        found += _banks(text, words)
        if TRAVELS(text, words):
            found += groups(PASSPORT, text, "passport")
            found += groups(ZONE, text, "passport")
    return found


def _telephones(text: str, words: frozenset[str]) -> Iterator[Find]:
    for pattern in (MOBILE, MOBILE_86, INLAND, *([CALLED] if CALLS(text, words) else ())):
        for start, end, kind in groups(pattern, text, "phone"):
            if _dialled(text[start:end], mobile=pattern is MOBILE) and not NOT_OF_PEOPLE.search(
                text[max(0, start - 12) : start]
            ):
                yield start, end, kind
    yield from groups(ABROAD, text, "phone")
    yield from groups(AMERICAN, text, "phone")


def _dialled(number: str, *, mobile: bool) -> bool:
    """Whether digits are grouped as in a telephone number and not as in a list or a date."""
    parts = re.findall(r"\d+", number)
    if SAME_DAY.search(number):
        return False
    if not mobile:
        return len(parts[0]) > 1 and len(parts) < 7
    digits = "".join(parts)
    if digits[1] not in "3456789":
        return False
    return len(parts) == 11 or (len(parts) < 7 and len(parts[0]) > 2)


def _identities(text: str, words: frozenset[str]) -> Iterator[Find]:
    for start, end, kind in groups(CHINESE, text, "identity"):
        if _chinese(re.sub(r"[^0-9Xx]", "", text[start:end])):
            yield start, end, kind
    for match in IDENTIFIED.finditer(text) if IDENTIFIES(text, words) else ():
        value = match["x"]
        if day := SAME_DAY.search(value):
            value = value[: day.start()].rstrip(" ./-")
        if sum(map(str.isdigit, value)) >= 6 and not NOT_OF_PEOPLE.search(
            text[max(0, match.start() - 12) : match.start()]
        ):
            yield match.start("x"), match.start("x") + len(value), "identity"
    for pattern, module in FOREIGN:
        for start, end, kind in groups(pattern, text, "identity"):
            if module is None or _valid(module, text[start:end]):
                yield start, end, kind


def _chinese(digits: str) -> bool:
    """Whether 15 or 18 digits begin with a province and a date of birth, or else end in the right check digit.

    A mistyped check digit leaves a number that still says who and when.
    """
    if digits[:2] not in PROVINCES:
        return False
    year, month, day = (
        (digits[6:10], digits[10:12], digits[12:14]) if len(digits) == 18 else ("19", digits[8:10], digits[10:12])
    )
    if "01" <= month <= "12" and "01" <= day <= "31" and year[:2] in ("18", "19", "20"):
        return True
    weights = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
    return (
        len(digits) == 18
        and "10X98765432"[sum(int(d) * w for d, w in zip(digits, weights, strict=False)) % 11] == digits[17].upper()
    )


def _valid(module: str, number: str) -> bool:
    known = _stdnum(module)
    return known is None or bool(known(number))


@lru_cache
def _stdnum(module: str) -> Callable[[str], object] | None:
    """None without the library: the form alone decides then, and too much is masked rather than too little."""
    try:
        return importlib.import_module(f"stdnum.{module}").is_valid
    except ImportError:
        return None


def _banks(text: str, words: frozenset[str]) -> Iterator[Find]:
    for start, end, _ in groups(CARD, text, "card"):
        yield from _card(text, start, end)
    if CARRIES(text, words):
        yield from groups(CARDED, text, "card")
    for start, end, _ in groups(IBAN, text, "iban"):
        yield from _iban(text, start, end)


def _card(text: str, start: int, end: int) -> Iterator[Find]:
    """The longest run of whole groups of digits in the range that has a card's beginning, length and check digit."""
    parts = [(start + m.start(), start + m.end()) for m in re.finditer(r"\d+", text[start:end])]
    if len(parts) > 7:
        return
    for i in range(len(parts)):
        for j in range(len(parts), i, -1):
            digits = "".join(text[a:b] for a, b in parts[i:j])
            if (
                (13 if MAESTRO.match(digits) is None else 12) <= len(digits) <= 19
                and BRANDS.match(digits)
                and _luhn(digits)
            ):
                yield parts[i][0], parts[j - 1][1], "card"
                return


def _luhn(digits: str) -> bool:
    odd, even = digits[-1::-2], digits[-2::-2]
    return (sum(map(int, odd)) + sum(sum(divmod(2 * int(d), 10)) for d in even)) % 10 == 0


def _iban(text: str, start: int, end: int) -> Iterator[Find]:
    """The whole words from `start` on that have their country's length and pass ISO 13616's check; after the word IBAN
    also the nearest that do not."""
    run = text[start:end]
    length = IBAN_LENGTHS.get(run[:2].upper())
    said = re.search(r"iban[^0-9A-Za-z]{0,8}$", text[max(0, start - 12) : start], re.I)
    stops = [m.end() for m in re.finditer(r"[0-9A-Za-z]+", run)]
    for stop in stops:
        code = re.sub("[ -]", "", run[:stop]).upper()
        # In one piece it may be of any length: a country not listed, a digit dropped.
        if len(code) == length or (stop == stops[0] and 15 <= len(code) <= 34):
            right = int("".join(str(int(c, 36)) for c in code[4:] + code[:4])) % 97 == 1
            if said or right:
                yield start, start + stop, "iban"
                return
    if said:
        yield (
            start,
            start + max((m.end() for m in re.finditer(r"[0-9][A-Za-z]?(?![0-9A-Za-z])", run)), default=len(run)),
            "iban",
        )


def _plates(text: str, words: frozenset[str]) -> Iterator[Find]:
    for match in PLATE.finditer(text):
        if match["rest"] is None or sum(map(str.isdigit, match["rest"])) > 1:
            yield *match.span(), "plate"
    if LETTER_BY_DIGIT.search(text):
        yield from groups(EUROPEAN, text, "plate")
    for start, end, kind in groups(PLATED, text, "plate") if DRIVES(text, words) else ():
        # As many of the words as make a plate.
        for stop in reversed([m.end() for m in re.finditer("[0-9A-Za-z]+", text[start:end])]):
            plate = [c for c in text[start : start + stop] if c.isalnum()]
            if 5 <= len(plate) <= 9 and any(map(str.isdigit, plate)) and any(map(str.isalpha, plate)):
                yield start, start + stop, kind
                break


def _accounts(text: str) -> Iterator[Find]:
    """Handles after the name of where they are; a plain word counts only where something says that it is a handle."""
    for match in KNOWN_AS.finditer(text):
        value, link = match["x"], match["link"]
        if value.isdigit() and len(value) < 5:
            continue
        marked = any(c.isdigit() or c in "_@.-" for c in value)
        said = LINKED.search(link) or (":" in link and not re.match(r"[ ][a-z]", text[match.end() : match.end() + 2]))
        if marked or said or (not match["where"].isascii() and not link.strip() and len(value) > 5):
            yield *match.span("x"), "account"


def _machines(text: str) -> Iterator[Find]:
    for start, end, kind in groups(IP4, text, "ip"):
        if (
            text[end : end + 1] not in LISTED
            and text[start - 1 : start] not in LISTED
            and not RELEASE.search(text[max(0, start - 12) : start])
        ):
            yield start, end, kind
    for start, end, kind in groups(IP6, text, "ip"):
        with contextlib.suppress(ValueError):
            address = ipaddress.IPv6Address(text[start:end])
            if (
                NUMBER.search(text, start, end)
                and int(address) > 1
                and ("." in text[start:end] or sum(map(bool, text[start:end].split(":"))) > 2)
            ):
                yield start, end, kind


def _coordinates(text: str) -> Iterator[Find]:
    for start, end, kind in groups(PAIR, text, "gps"):
        one, two = (abs(float(n)) for n in re.findall(r"\d+[.]\d+", text[start:end]))
        if max(one, two) <= 180 and min(one, two) <= 90:
            yield start, end, kind
    sides = list(groups(SIDED, text, "gps"))
    for (start, end, kind), (start2, end2, _) in pairwise(sides):
        if start2 - end <= 4:  # one side of the world alone may be a temperature, an angle or a bearing
            yield start, end2, kind
