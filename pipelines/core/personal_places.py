# ruff: noqa: E501 - a pattern is read as a whole
"""Addresses down to the house or the room, in Chinese and in European forms. A street or an estate alone is no find."""

import re

from pipelines.core.personal_finds import HAN, Find, compiled, groups, spelled

N = "(?:[0-9]{1,5}|[零〇一二三四五六七八九十百两]{1,6})"
# What stands under a house number: court, building, stairs, floor, room. A bare number ends it as a room.
UNDER = rf"(?:[ -]?(?:附?[A-Za-z]?{N}[A-Za-z]?[ ]?(?:号院|号楼|号|弄|栋|幢|座|楼|单元|层|室|房|户|门|组|舍|支弄)|[A-Za-z][ ]?(?:座|栋|幢|区|号楼|楼|单元)))"
ROOM = r"(?:[ ,，-]?[A-Za-z]?[0-9]{3,4}(?![0-9年月日元米块万度平]|[ ]?m|多)(?:[ ]?(?:室|房|号|户))?|[ -]?[A-Za-z]?(?:[0-9]{1,5}|[零〇一二三四五六七八九十百]{2,6})[A-Za-z]?[ ]?(?:室|房(?![产屋间])|户(?![型主])))"
COMPLEX = (
    r"(?:小区|花园|公寓|家园|新村|新城|大厦|广场|家属院|宿舍|公馆|名邸|华庭|山庄|别墅|佳苑|[苑庭府邸居湾郡城园里村])"
)
HOUSE = compiled(rf"""
    (?:[路街道巷弄里坊条]|胡同|大街|大道|(?:[东西南北中]|[一二三四五六七八九]|[0-9]{{1,2}})(?:路|街|巷|条|弄))[ ]?
    (?:{N}(?:[ ]?[-—之][ ]?[0-9]{{1,4}})?[ ]?(?:号|弄|號)|[A-Za-z]座)(?![ ]?(?:线|文件|文|令|公告|桩|车|机|灯|杆|井|路|提案|通知|站|口|出口|地块|工程|标段|院线))
    (?:院|楼)?(?:[ ]?[{HAN}]{{2,8}}?(?={UNDER}))?{UNDER}{{0,5}}{ROOM}?""")
# Without a street, a building alone, its stairs or its floors are no household: a room must follow.
BUILDING = compiled(rf"""
    (?<![0-9A-Za-z第])(?:[A-Za-z]?{N}[ ]?(?:号楼|栋|幢|单元|弄)|[A-Za-z0-9]{{1,3}}[ ]?(?:座|栋|幢|号楼)){UNDER}{{0,4}}?{ROOM}""")
DASHED = compiled(
    rf"{COMPLEX}[ ]?[0-9]{{1,3}}-[0-9]{{1,2}}-[0-9]{{3,4}}(?![0-9])|{COMPLEX}[ ]?[0-9]{{1,2}}-[0-9]{{3,4}}(?![0-9-])(?!年)"
)
VILLAGE = compiled(rf"(?:村|庄|屯|寨|社区|大队)[ ]?(?:第)?{N}[ ]?(?:组|队|社)[ ]?{N}[ ]?[号户]")
# Where a name stops to the left: what stands before names of places. The weak may also stand in a name.
WEAK = frozenset("和与及至过对向给因有家的了为是将把被该其这那即用称让就会要并但")
BOUNDS = re.compile(
    "在|住|于|到|从|址|市|区|县|镇|乡|省|我们?|往|去|请|什么|代表|导致|投诉|反映|举报|申请|领导|业主|目前|楼[上下]|附近|旁边|街道|社区|公司|第|施工|是|"
    "和(?!平)|至(?!善)|向(?!阳)|家(?!乐)|[与及过对给因有的了为将把被该其这那即用称让就会要并但]"
)
RUN = re.compile(f"[{HAN}0-9A-Za-z·]{{0,12}}$")

U, W = "A-Z\u00c0-\u00d6\u00d8-\u00de\u0100-\u017d", "A-Za-z\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u017e'’-"
WORD = rf"[{U}][{W}]{{0,24}}\.?"
INSIDE = r"(?:Flat|Apartment|Apt|Appt|Unit|Room|Rm|Suite|Ste|Floor|Fl|House|Block|Studio|\#)\.?[ ]?(?:no[.][ ]?)?[A-Z]?[0-9]{1,5}[A-Za-z]?"
KIND = (
    r"(?:Street|St|Road|Rd|Avenue|Ave|Lane|Ln|Drive|Dr|Close|Court|Ct|Crescent|Cres|Terrace|Boulevard|Blvd|Place|Pl|Square|Sq|Way|Gardens?|"
    r"Grove|Mews|Hill|Row|Walk|Parkway|Pkwy|Highway|Hwy|Quay|Green|Circle|Cir|Trail|Alley|Rise|View|Loop|Path)"
)
ENGLISH = compiled(rf"""
    (?<![0-9A-Za-z])(?:{INSIDE}[ ]?,?[ ]?)?(?<![0-9.,:/€$£-])[0-9]{{1,5}}(?:[A-Za-z]|[ ][A-Z](?=[ ]))?(?:[ ]?[-/][ ]?[0-9]{{1,5}}[A-Za-z]?)?,?[ ]
    (?:[NSEW]\.?[ ]|North[ ]|South[ ]|East[ ]|West[ ])?(?:{WORD}[ ]|[0-9]{{1,3}}(?:st|nd|rd|th)[ ]){{1,4}}?{KIND}(?![A-Za-z])(?:\.(?=[ ,][ ]?[a-z0-9F#A]))?(?:[ ](?:NW|NE|SW|SE|North|South|East|West|N|S|E|W)(?![A-Za-z]))?
    (?:[ ]?,?[ ]?{INSIDE}(?![A-Za-z]))?""")
LOWER = compiled(
    r"""
    (?<![A-Za-z])(?:(?:live|living|reside|home|house|am|are)[ ](?:at|on|is)|address(?:[ ]is)?[ ]?:?)[ ]
    (?P<x>[0-9]{1,5}[a-z]?[ ](?:[a-z']{2,20}[ ]){1,3}?(?:street|st|road|rd|avenue|ave|lane|drive|close|court|place|square|way))(?![a-z])""",
    re.I,
)
JOINED = compiled(rf"""
    (?<![{W}])[{U}][{W}]{{2,40}}?(?:[Ss]traße|[Ww]eg|[Aa]llee|[Pp]latz|straat|weg|laan|gracht|plein|kade|dijk|singel|dreef|hof|pad|steeg|markt|strasse|str\.|allee|platz|gasse|ring|damm|ufer|wall|graben|gatan|gata|vägen|gränd|veien|vej|gade)
    [ ](?<![0-9])[0-9]{{1,4}}(?:/[0-9]{{1,4}})?(?:[ ]?[a-zA-Z](?![{W}])|-(?:[IVX]{{1,4}}|[0-9]{{1,3}}|[A-Z]|hs)(?![{W}])|[ ](?:bis|hs|huis)(?![a-z]))?(?![0-9A-Za-z.:]*[0-9])""")
# After words that say that an address follows: words of capitals, small joining words and numbers, as far as they go.
TOLD = compiled(rf"""
    (?<![A-Za-z])(?:(?i:live|lives|living|reside|resides|resident|home|house|flat)[ ](?:(?:is|,)[ ])?(?i:at|on|in)|(?i:address|adres|adresse|dirección|indirizzo|adress)
    (?:[ ](?:is|ist|:))?[ ]?[:]?|(?i:deliver|delivered|send|sent)(?:[ ][a-z]{{2,8}}){{0,2}}[ ]to|(?i:woon|woont|wohne|wohnt|habite|vivo|abito)(?:[ ][a-zà]{{1,4}}){{0,2}})[ ]
    (?P<x>(?:[{U}0-9][0-9.º°ª/\#{W}]{{0,24}}|(?:de|la|las|los|del|di|da|do|der|den|van|von|rue|avenue|chemin|plac|pl|ul|al|os|av|place|boulevard|du|des|le|les)[.]?)
    (?:,?[ ](?:[{U}0-9\#][0-9.º°ª/\#{W}]{{0,24}}|(?:de|la|las|los|del|di|da|do|der|den|van|von|du|des|le|les|apt|flat|bus|puerta|piso)[.]?)){{1,8}})""")
SPACED = compiled(rf"""
    (?<![{W}])(?:[{U}][{W}]{{1,24}}[ ]){{0,2}}(?:Straat|Weg|Laan|Gracht|Plein|Kade|Dijk|Singel|Straße|Strasse|Allee|Platz|Ring|Damm|Ufer)[ ][0-9]{{1,4}}[a-z]?(?![0-9A-Za-z])
    |(?<![0-9A-Za-z])[0-9]{{1,4}}(?:[ ]?(?:bis|ter|[a-zA-Z](?![a-zA-Z])))?[ ]?,?[ ](?:rue|avenue|boulevard|bd|place|chemin|allée|impasse|quai|route|cours)[ ](?:de[ ]la[ ]|de[ ]l'|de[ ]|du[ ]|des[ ]|d'|l')?[{U}][{W}]{{1,24}}(?:[ ][{U}][{W}]{{1,24}}){{0,3}}
    |(?<![{W}])(?:Calle|C/|Avenida|Avda\.?|Av\.|Plaza|Paseo|Via|Viale|Piazza|Corso|Vicolo|Rua|Praça|ul\.|Ulica|Rue|Avenue|Boulevard)[ ](?:(?:de|del|della|di|la|el|las|los|da|do|dos)[ ]){{0,2}}[{U}][{W}]{{1,24}}(?:[ ](?:(?:de|del|di|la)[ ])?[{U}][{W}]{{1,24}}){{0,3}}[ ]?,?[ ](?:n[.º°]?[ ]?)?[0-9]{{1,4}}[a-zA-Z]?(?![0-9A-Za-z])(?:,?[ ][0-9]{{1,2}}[º°ª][ ]?[A-Z]?)?""")


STREETS = frozenset(re.sub(r"[^a-z|]", "", KIND.lower().replace("gardens?", "gardens|garden")).split("|"))
HOMES = spelled("live living reside home house am are address")
FOREIGN = spelled(
    "rue avenue boulevard bd place chemin all impasse quai route cours calle c avenida avda av plaza paseo via viale piazza corso vicolo rua ul ulica"
)
TELLS = spelled(
    "live lives living reside resides resident home house flat address adres adresse direcci indirizzo adress deliver delivered send sent woon woont wohne wohnt habite vivo abito"
)
LEFT_NUMBER = re.compile("[a-z.ß] [0-9]")
HOUSES, BUILDINGS, DASHES = (
    re.compile("[号弄號座]"),
    re.compile("[栋幢座弄期]|号楼|单元"),
    re.compile("[0-9]-[0-9]{1,2}-?[0-9]"),
)


def finds(text: str, words: frozenset[str]) -> list[Find]:
    """Finds in a text whose Latin words are given, in lower case. In no order; they may overlap."""
    patterns = []
    if not text.isascii():
        patterns += [HOUSE] if HOUSES.search(text) else []
        patterns += [BUILDING] if BUILDINGS.search(text) else []
        patterns += [DASHED] if DASHES.search(text) else []
        patterns += [VILLAGE]
    found = [(_named(text, m.start()), m.end(), "address") for pattern in patterns for m in pattern.finditer(text)]
    if not words or not re.search("[0-9]", text):
        return found
    if not STREETS.isdisjoint(words):
        found += groups(ENGLISH, text, "address")
        if not HOMES.isdisjoint(words):
            found += groups(LOWER, text, "address")
    if not TELLS.isdisjoint(words):
        for start, end, kind in groups(TOLD, text, "address"):
            if re.search("[0-9]", text[start:end]) and re.search(f"[{U}]", text[start:end]):
                found.append((start, start + len(text[start:end].rstrip("./-")), kind))
    if LEFT_NUMBER.search(text):
        found += groups(JOINED, text, "address")
    if not FOREIGN.isdisjoint(words) or LEFT_NUMBER.search(text):
        found += groups(SPACED, text, "address")
    return found


def _named(text: str, start: int) -> int:
    """Where the name begins that ends at `start`: at most 8 characters back, after the last word that stands before names."""
    low = max(0, start - 8)
    run = RUN.search(text[low:start])
    low = start - len(run[0]) if run else start
    for bound in reversed([*BOUNDS.finditer(text, low, start)]):
        if start - bound.end() >= (2 if bound[0] in WEAK else 1):
            return bound.end()
    return low
