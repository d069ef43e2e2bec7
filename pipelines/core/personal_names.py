# ruff: noqa: E501 - a pattern is read as a whole
"""Persons' names where words introduce them, in Chinese and in European languages."""

import re
from collections.abc import Iterator

from pipelines.core.personal_finds import HAN, Find, compiled, spelled

DOUBLE = "欧阳|司马|上官|诸葛|东方|皇甫|尉迟|公孙|慕容|令狐|宇文|长孙|司徒|夏侯|端木|南宫|独孤|西门"
SINGLE = (
    "王李张刘陈杨黄赵吴周徐孙马朱胡郭何林罗郑梁谢宋唐许韩邓冯曹彭曾肖田董潘袁蔡蒋余于杜叶程魏苏吕丁任卢姚沈钟姜崔谭陆范汪廖石金韦贾夏付方邹熊白孟秦邱侯江"
    "尹薛闫雷龙黎史陶贺毛郝顾龚邵万覃武钱戴严莫孔向常汤康易乔赖文樊兰施洪安颜倪庞申殷章鲁葛牛俞邢毕季岳尤柳傅花皮卞穆狄岑聂饶荆匡巩闻桑齐梅庄辛管祝左涂谷祁时舒耿卜路詹关苗凌费纪靳盛童欧甄项"
    "曲成游阳裴席卫查屈鲍位覃霍翁隋植甘景薄单包司柏宁柯阮桂闵解强柴华车冉房边丰连阎喻简伍臧鞠蓝焦劳巫冷官苟占商晏党虞娄宗尚米褚滕晋屠蒲翟应栾吉丘祖郎习宫沙古储"
    "仲萧骆高缪瞿佟麻窦卓支和姬艾迟池郁练燕干缑亓仇敖谌候嵇戚胥蔺麦侬楚粟鄢逯邸粱郜邬刁荣封"
)  # fmt: skip
SURNAME = f"(?:{DOUBLE}|[{SINGLE}])"
# Surnames that words end with or that are words: alone they count only where the sign to the left leaves no other reading.
AMBIGUOUS = frozenset("方任管车房边和向于时常成应连司官干单包支路关文安通解强华成位商查占候景宗古尚简劳冷党费万高水")
# Surnames that before a title are more often the end of another word.
NEVER = "和向时连单包位官车司房管边支路占候应商家班"
# Surnames that are verbs, prepositions or halves of words where a clause begins.
NOT_FIRST = frozenset("花皮闻方任管车房边和向于时常成应连官干单包支路关文安通解强位商查占候都全以")
# Ends of names of places.
PLACE = "城村塘滨园苑府湾镇区县市路街里湖山院校厂店局"
NOT_GIVEN = "的是了在有和与及这那哪些某各每两几位个名个们给被把让请找到对向从我你他她它您就也都没不说吗呢吧啊很"
# What may follow a given name of one character without being its second.
AFTER = frozenset("，。；：、,.;:!?！？（()）[]【】《》“”\"'/|-\n\r\t 　") | frozenset(
    "住在是系男女家于因向的和与及年今现，来为就反有从说"
)

SAID = compiled(rf"""
    (?:我叫|我是叫|名叫|名字[是叫为]|名字[:：]|姓名[ ]?(?:[:：是为]|(?=[{HAN}]{{2,3}}[ ,，。；;、)]))|(?:联系|申请|投诉|举报|反映|来电|来信|经办|负责|收件|收货|诉求|信访|求助|
    报案|当事|被告|原告|委托|监护|报修|建议|咨询|留言|发帖|代表|受害|举证|证明|缴费|法|寄件|患|承租|出租)(?:人|者)(?:姓名)?[ ]?[:：是为]|
    (?:户主|业主|代表|署名|签名|签字|患者|家长|学生|房东|租客|本人|市民|居民|村民|乘客|司机|姓名|联系人|投诉人|申请人|举报人|反映人)[ ]?(?:[:：]|叫|名叫|姓名)|
    (?:老公|老婆|丈夫|妻子|爱人|儿子|女儿|孩子|父亲|母亲|爸爸|妈妈|爷爷|奶奶|弟弟|哥哥|姐姐|妹妹|朋友|同事|邻居|孙子|孙女|老伴)叫|
    (?:此致)?[ ,，]?敬礼[ !！。,，\n\u3000]*(?:市民|[村居]民|业主|学生|[{HAN}]{{0,4}}[:：])?[ ]?)[ \u3000]?
    (?P<x>{SURNAME}(?:·?[{HAN}]){{1,2}})""")
# The same without a sign or verb between: then the name must end where the clause does, or as names do.
MEANT = compiled(rf"""
    (?:户主|业主|本人|市民|居民|村民|乘客|(?<!人)学生|家长|患者|投诉人|举报人|申请人|联系人|反映人|当事人|负责人|来电人|法定代表人|我是|敬礼)[ ]?
    (?P<x>{SURNAME}[{HAN}]{{1,2}})(?=[ ,，。；;、(（\n]|$|是|系|男|女|住|反映|的房|，|投诉|举报|来电|咨询|诉求|申请|建议)""")
TITLED = compiled(rf"""
    (?P<x>(?P<sur>{DOUBLE}|(?![{NEVER}])[{SINGLE}])(?P<given>[{HAN}]{{0,2}}?)
    (?P<title>先生|女士|小姐|太太|夫人|老师|师傅|阿姨|大爷|大妈|大叔|大姐|大哥|叔叔|奶奶|爷爷|医生|大夫|护士|律师|经理|主任|同志|同学|警官|某某|某))""")
SURNAMED = compiled(rf"(?<![百贵何同老])(?P<x>姓{SURNAME})(?![{HAN}]?名|氏)")
STRICT = ("医生", "经理", "主任", "老师", "师傅", "同学", "同志", "大夫", "护士", "律师", "某")
COMMON = spelled(
    "任课 许可 许多 陆续 费用 方面 高度 任何 于是 安全 常年 常常 强烈 时常 关于 应该 应当 连续 万分 严重 严格 严厉 全部 全体 平时 平均 安排 安装 安置 成立 成为 成员 曾经 "
    "单位 向来 车位 车辆 车库 房屋 房产 路口 水电 文明 高兴 高层 高达 金额 钱款 包括 包含 花费 花园 计划 解决 解释 解除 程序 项目 齐心 易受 康复 管理 管道 支付 支持 "
    "商量 商铺 方便 方可 方式 经常 明确 明白 顾虑 顾问 祝愿 万一 万科 江苏 江西 江边 石头 林业 田地 甘愿 胡乱 习惯 游客 游玩 单独 单方 安心 安居 向上 和谐 乐意 荣誉 "
    "代表 毛坯 毛病 黄色 白天 白色 金牌 申请 申诉 申报 查看 查询 屈从 车主 马上 马路 于此 全额 全家 相信 相关 沙石 边上 通过 通知 通常 施工 温度 谷底 冷暖 容易 冯某 "
    "尚未 尚无 时间 温馨 季节 席位 古稀 寿命 池塘 郊区 祖祖 祖籍 祖上 祖辈 符合 候车 都会 都在 简直 简单 强制 强行 强调 官方 党员 党支 宗教 宁愿 宁可 封闭 封锁 易燃"
)
BEFORE = frozenset('是找的请和与跟给叫让问由向对被名员民户者位系了我，。；：、,.;: (（\n“"')

U, W = "A-Z\u00c0-\u00d6\u00d8-\u00de\u0100-\u017d", "A-Za-z\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u017e'’-"
WORD = rf"(?:[{U}][{W}]{{0,24}}|[{U}][.])(?<![-'])"
BETWEEN = (
    r"(?:van[ ]der|van[ ]den|van[ ]de|van|de[ ]la|de|den|der|von|zu|le|la|el|al|bin|ibn|ter|ten|du|da|di|dos|'t|del)[ ]"
)
STYLE = r"(?:(?:pan|pani|dr|ir|drs|ing|[A-Z][a-z]{1,4}[.](?:[A-Z]?[a-z]{1,5}[.]?|-[A-Z][a-z]{1,4}[.])?)[ ])?"
PERSON = rf"{STYLE}(?:{BETWEEN})?{WORD}(?:[ ](?:{BETWEEN})?{WORD}){{0,3}}"
KIN = r"(?:husband|wife|son|daughter|neighbou?r|mother|father|brother|sister|landlord|landlady|boss|colleague|tenant|friend|partner)"
LATIN = compiled(rf"""
    (?<![{W}])(?:
    (?i:my[ ](?:full[ ])?name(?:[ ]is|'s|:)|(?:full|first|last|sur|family)?[ ]?name[ ]?[:=]|(?:I[ ]am|I'm|he[ ]is|she[ ]is|is|was|are|person|man|woman|boy|girl)[ ](?:called|named)|
    {KIN}[ ](?:is[ ])?(?:called|named)|
    contact(?:[ ]person)?[ ]?:|signed(?:[ ]by)?[ ]?[:,]?|(?:kind|best|warm)?[ ]?regards[ ]?[,:]?|(?:best|kind|warm)[ ]wishes[ ]?[,:]?|
    (?:sincerely|faithfully|truly)(?:[ ]yours)?[ ]?[,:]?|cheers,|thanks,|(?:applicant|complainant|resident|reporter|sender|owner|tenant)[ ]?:|
    mijn[ ]naam[ ]is|naam[ ]?:|ik[ ]heet|(?:mein)?[ ]?name[ ]ist|ich[ ]hei(?:ß|ss)e|je[ ]m'appelle|me[ ]llamo|mi[ ]chiamo|
    groet(?:en)?[ ]?,|grü(?:ß|ss)en?[ ]?,?)
    \s{{1,3}}|(?i:name|naam|contact|signed|regards|wishes)[:,])[ ]?
    (?P<x>{PERSON})(?![{W}])""")
LOWER = compiled(
    r"(?<![A-Za-z])my[ ](?:full[ ])?name(?:[ ]is|'s|[ ]?:)[ ](?P<x>[a-z'-]{2,20}(?:[ ][a-z'-]{2,20})?)(?![A-Za-z'-])",
    re.I,
)
HERE = compiled(
    rf"(?<![{W}])(?:This[ ]is|I[ ]am|I'm)[ ](?P<x>{PERSON})(?=[ ](?:from|speaking|here|calling|living|and[ ]I[ ]live)(?![a-z]))"
)
MISTER = compiled(rf"""
    (?<![{W}])(?P<x>(?:Mr|Mrs|Ms|Miss|Mx|Messrs|Dr|Prof|Professor|Sir|Lady|Madam|Mevr|Mevrouw|Meneer|mevrouw|meneer|Dhr|dhr|mevr|Mw|Herrn?|Frau|Mme|Mlle|
    Monsieur|Madame|Señora?|Sra?|Signora?|Sig)[.]?[ ]{PERSON})(?![{W}])""")
NOBODY = spelled(
    "sir madam unknown none the city council on in not wrong misspelled misspelt incorrect being also still spelled spelt listed missing "
    "printed written written mentioned a an and or but is was my your no yes it that this what there here please thank thanks n/a "
    "anonymous withheld private never always already now too because for of at by to with used known mr mrs ms dr"
)


HAN_CUES = re.compile("叫|姓|名|人[ ]?[:：是为姓]|者[ ]?[:：是为]|敬礼|[主民长客东机人患表]者?[ ]?[:：]")
MEANT_CUES = re.compile(
    "户主|业主|本人|[市居村]民|乘客|学生|家长|患者|[投举申联反当负来表][诉报请系映事责电]?人|我是|敬礼"
)
TITLE_CUES = re.compile(
    "先生|女士|小姐|太太|夫人|老师|师傅|阿姨|大[爷妈叔姐哥夫]|叔叔|[奶爷][奶爷]|医生|护士|律师|经理|主任|同[志学]|警官|某"
)
NAME_WORDS = spelled(
    "name called named contact signed regards wishes sincerely faithfully truly cheers thanks applicant complainant resident reporter sender "
    "owner tenant naam heet hei heisse appelle llamo chiamo groet groeten gr grussen gruss"
)
TITLE_WORDS = spelled(
    "mr mrs ms miss mx messrs dr prof professor sir lady madam mevr mevrouw meneer dhr mw herr herrn frau mme mlle monsieur madame se sr sra "
    "senor senora signor signora sig"
)


def finds(text: str, words: frozenset[str]) -> list[Find]:
    """Finds in a text whose Latin words are given, in lower case. In no order; they may overlap."""
    found = [] if text.isascii() else [*_chinese(text)]
    if not NAME_WORDS.isdisjoint(words):
        found += _latin(text, LATIN)
        found += _lower(text) if "name" in words else ()
    if not TITLE_WORDS.isdisjoint(words):
        found += _latin(text, MISTER)
    if "i" in words or "this" in words:
        found += _latin(text, HERE)
    return found


def _chinese(text: str) -> Iterator[Find]:
    for match in SAID.finditer(text) if HAN_CUES.search(text) else ():
        start, end = match.span("x")
        name = match["x"]
        if name[1] in NOT_GIVEN or name[:2] in COMMON:
            continue
        # Two characters where the third is no part of a name; a surname of two takes one or two more as well.
        last = end - 1
        if end - start > 2 and (text[last] in AFTER or text[last] in NOT_GIVEN):
            end = last
        yield start, end, "name"
    for match in MEANT.finditer(text) if MEANT_CUES.search(text) else ():
        name = match["x"]
        if (
            name[0] not in NOT_FIRST
            and name[:2] not in COMMON
            and name[-1] not in PLACE
            and not any(c in NOT_GIVEN for c in name[1:])
        ):
            yield *match.span("x"), "name"
    for match in TITLED.finditer(text) if TITLE_CUES.search(text) else ():
        before = text[match.start() - 1] if match.start() else "\n"
        if any(c in NOT_GIVEN for c in match["given"]) or (match["given"][:1] in ("老", "女", "男", "大", "一", "二")):
            continue
        doubtful = match["sur"] in AMBIGUOUS or (match["given"] and match["title"] in STRICT)
        if match["given"] and match["title"] in STRICT and before in "了我的到":
            continue
        if doubtful and before not in BEFORE and "\u3400" <= before <= "\u9fff":
            continue
        yield *match.span("x"), "name"
    for match in SURNAMED.finditer(text):
        yield *match.span("x"), "name"


def _latin(text: str, pattern: re.Pattern[str]) -> Iterator[Find]:
    for match in pattern.finditer(text):
        words = match["x"].split()
        while words and words[-1].lower().rstrip(".") in NOBODY:
            words.pop()
        if words and (words[0].lower() not in NOBODY or pattern is MISTER):
            yield match.start("x"), match.start("x") + len(" ".join(words)), "name"


def _lower(text: str) -> Iterator[Find]:
    for match in LOWER.finditer(text):
        words = match["x"].split()
        if words[0].lower() not in NOBODY:
            length = len(match["x"]) if words[-1].lower() not in NOBODY else len(words[0])
            yield match.start("x"), match.start("x") + length, "name"
