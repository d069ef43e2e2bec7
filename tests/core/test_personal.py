# ruff: noqa: E501 - a kind's forms stand on a line
"""Personal data in text: each kind found, what resembles it left alone, spans kept, any text survived in linear time."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.core import personal
from pipelines.core.personal import Masked, mask

FOUND = [
    ("phone", "请回电{}，谢谢", ["13800138000", "138-0013-8000", "+86 138 0013 8000", "１３８００１３８０００", "幺三八零零幺三八零零零", "138\u200b0013\u200b8000",
                             "010-62345678", "(0755)82345678", "+852 9123 4567"]),
    ("phone", "Call me on {}.", ["+44 7700 900123", "020 7946 0123", "(212) 555-0123", "+31 6 12345678", "06-12345678"]),
    ("identity", "身份证号{}。", ["11010519491231002X", "110105194912310028", "110105 1949 1231 002X", "110105491231002", "１１０１０５１９４９１２３１００２Ｘ"]),
    ("identity", "My ID number is {}.", ["078-05-1120", "111222333", "AB 12 34 56 C", "54362315K", "RSSMRA85T10A562S"]),
    ("plate", "车{}乱停", ["京A12345", "沪A·D12345", "粤BD12345", "京A1234警"]),
    ("plate", "A van with plate {} stands here", ["AB12 CDE", "AB-123-C", "M-AB 1234", "AB12CDE"]),
    ("email", "write to {} now", ["a.b+c@example.co.uk", "a.b＠example.com", "ann at example dot com", "ann [at] example.com"]),
    ("card", "卡{}被盗刷", ["4111111111111111", "4111 1111 1111 1111", "4111-1111-1111-1111", "3782 822463 10005", "6222 0212 3456 7890 128"]),
    ("iban", "refund to {} please", ["NL91ABNA0417164300", "DE89 3704 0044 0532 0130 00", "gb82west12345698765432"]),
    ("passport", "护照号码{}", ["E12345678", "EA1234567", "123456789"]),
    ("ip", "from {} nothing loads", ["192.168.10.254", "2001:db8::8a2e:370:7334", "8.8.8.8:53"]),
    ("account", "加我微信{}，", ["abc_123", "wxid_8f3k2l"]),
    ("account", "QQ：{}", ["123456789"]),
    ("name", "我叫{}，住在附近", ["王小明", "欧阳娜娜", "李伟"]),
    ("name", "请联系{}。", ["王女士", "李小明先生"]),
    ("name", "Regards, {}", ["John Smith", "Jan van der Berg", "Zoë O'Connor"]),
    ("name", "I told {} so", ["Mr Jones", "Mrs. García"]),
    ("address", "我住在{}，停水", ["建国路12号3栋502室", "阳光小区3栋2单元501室", "建国路１２号", "帽儿胡同8号", "金鼎村7组12号"]),
    ("address", "I live at {}.", ["12 Baker Street, Flat 3", "Flat 3, 12 Baker Street", "Keizersgracht 123-II", "Hauptstraße 12a", "221B Baker St"]),
    ("gps", "坐标{}", ["39.9042,116.4074", "北纬39.90度，东经116.40度", "52°22'12\"N 4°53'42\"E", "116.397128，39.916527"]),
]  # fmt: skip
CASES = [(kind, frame, form) for kind, frame, forms in FOUND for form in forms]
NOTHING = [
    "2024年5月12日上午10点30分，2024-05-12 10:30:45，2024/05/12，12.05.2024",
    "工程款12345678元，￥1,234,567.89，€12.50，补贴每月1380元",
    "G4高速K12+300处，S20、G1501、A10、N201、E19、X123县道",
    "乘坐123路公交，地铁10号线3号口，列车G1234次，航班CA1234",
    "国办发〔2019〕12号，京政发[2020]5号，GB 12345-2018，ISO 9001:2015",
    "拨打12345、110和95588无人接听",
    "小区共1200户3500人，第3届第12号提案，5号楼电梯停运3天",
    "人民路与解放路交叉口，长江路100米处，Main Street and Church Road",
    "各位先生女士，一位老先生，我叫了车，本人是业主，班主任老师，公司经理",
    "My name is on the list. WeChat is broken. Version 1.2.3 of the app, 12 street lights, bus 42, room 12",
    "Dear sir or madam, my passport expired, my phone is broken and my card too",
    "微信群里没人，QQ也登不上，高层分为1.2.3.4号户型",
]


@pytest.mark.parametrize(("kind", "frame", "form"), CASES)
def test_each_kind_is_found_and_nothing_beside_it(kind: str, frame: str, form: str) -> None:
    before, after = frame.split("{}")
    masked = mask(before + form + after)
    assert masked == Masked(
        before + personal.TOKENS[kind] + after,
        {kind: 1},
        ((len(before), len(before) + len(form), len(before), len(before) + len(personal.TOKENS[kind])),),
    )


@pytest.mark.parametrize("text", NOTHING)
def test_what_only_resembles_it_is_left_alone(text: str) -> None:
    assert mask(text) == Masked(text, {})


def test_what_was_introduced_once_is_masked_wherever_it_stands() -> None:
    masked = mask("我叫王小明。昨天王小明去了，Ann。My name is Ann Lee, Ann Leeds is not Ann Lee")
    assert masked.text == "我叫[NAME]。昨天[NAME]去了，Ann。My name is [NAME], Ann Leeds is not [NAME]"
    assert masked.found == {"name": 4}


def test_a_span_keeps_its_words_and_one_inside_a_find_becomes_the_token() -> None:
    text = "电话13800138000，长江路堵车，找王女士"
    masked = mask(text)
    jam = text.index("长江路堵车")
    assert masked.text[slice(*masked.moved(jam, jam + 5))] == "长江路堵车"
    assert masked.text[slice(*masked.moved(4, 6))] == "[PHONE]"
    assert masked.text[slice(*masked.moved(0, len(text)))] == masked.text
    assert masked.text[slice(*masked.moved(0, 2))] == "电话"


def test_tokens_of_an_earlier_masking_stay() -> None:
    text = "我叫[NAME]，电话[PHONE]，微信[ACCOUNT]，身份证[ID]，I live at [ADDRESS], passport [PASSPORT] 2024"
    assert mask(text) == Masked(text, {})


# Pieces that patterns begin, continue or end with, so that hypothesis meets their edges; and any character at all.
PIECES = st.sampled_from(
    [form for _, _, form in CASES] + [frame.split("{}")[0] for _, frame, _ in CASES] + list(personal.TOKENS.values())
    + list("0123456789-. :：，()@路号栋室[]xX\u200b\uff10一\n") + ["1", "86", "+", "Mr ", "我叫", "王", "先生", "QQ", "ID "]
)  # fmt: skip
TEXTS = st.lists(st.one_of(PIECES, st.text(max_size=4)), max_size=14).map("".join)


@settings(max_examples=400, deadline=None)
@given(TEXTS)
def test_masking_twice_is_masking_once_and_all_else_stays(text: str) -> None:
    masked = mask(text)
    assert mask(masked.text) == Masked(masked.text, {})
    old = new = 0
    tokens = set(personal.TOKENS.values())
    for start, end, new_start, new_end in masked.cuts:
        assert text[old:start] == masked.text[new:new_start]
        assert start < end
        assert masked.text[new_start:new_end] in tokens
        assert masked.moved(start, end) == (new_start, new_end)
        assert masked.moved(old, start) == (new, new_start) or old == start
        old, new = end, new_end
    assert text[old:] == masked.text[new:]
    assert sum(masked.found.values()) == len(masked.cuts)


@settings(max_examples=300, deadline=None)
@given(TEXTS, st.sampled_from(CASES), TEXTS)
def test_what_is_found_is_not_in_the_output(before: str, case: tuple[str, str, str], after: str) -> None:
    _, frame, form = case
    text = f"{before}\n{frame.format(form)}\n{after}"
    masked = mask(text)
    for start, end, _, _ in masked.cuts:
        rest = masked.text
        for token in personal.TOKENS.values():
            rest = rest.replace(token, "\0")
        # A name may also be the middle of a longer word.
        where = rest.find(text[start:end])
        assert (
            where < 0
            or text[start:end].isascii() is False
            or rest[max(0, where - 1)].isalpha()
            or rest[where + end - start : where + end - start + 1].isalpha()
        )


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(), max_size=200))
def test_any_unicode_is_survived(text: str) -> None:
    mask(text)


HOSTILE = [
    "1 ", "1", "1-", "0", "a", "a.", "a@", "@", "A1", "AB-", "1.", "1:", "a:", "::", "+", "(", "路1号", "栋1", "一", "张", "我叫", "张先生",
    "13800138000 ", "Mr ", "My name is ", "12 Main ", "Main Street ", "Flat 3, ", "ID ", "QQ", "微信a", "车牌", "京A", "[", "[PHONE]", "\u200b", "１", "GB1",
    "I live at 1 ", "北纬1度", "1.12345,", "护照", "passport A", "IBAN ", "电话 ", "敬礼", "at dot ", "名",
]  # fmt: skip


@pytest.mark.parametrize("piece", HOSTILE)
def test_time_is_linear_in_the_text(piece: str) -> None:
    """Twenty times the text may take sixty times as long, as small ones differ by chance, and not four hundred."""

    def seconds(size: int) -> float:
        text = (piece * (size // len(piece) + 1))[:size]
        began = time.process_time()
        mask(text)
        return time.process_time() - began

    small = max(seconds(2_500), 0.01)
    assert seconds(50_000) < 60 * small


def test_many_different_finds_in_one_text_take_no_longer_each() -> None:
    text = " ".join(f"13{i:09d}" for i in range(20_000))
    began = time.process_time()
    masked = mask(text)
    assert masked.found == {"phone": 20_000}
    assert time.process_time() - began < 20
