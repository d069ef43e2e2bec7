"""What citizens of the simulated city write with: sentences by topic, in English and Chinese.

`{slot}` is filled from SLOTS or by the moment; `[jam|…]` and `[free|…]` mark the phrase that states how traffic runs.
"""

from typing import NamedTuple

DEPARTMENTS = ("transport", "environment", "energy", "safety", "civic")
LANGUAGES = ("en", "zh")
Wordings = dict[str, tuple[str, ...]]


class Topic(NamedTuple):
    """A matter: who deals with it, how often it comes up in a city at rest, and its wordings by language."""

    department: str
    usual: float
    core: Wordings


ROADS = {
    "en": ("Harbour Road", "University Avenue", "Airport Road", "the Ring Road"),
    "zh": ("港口路", "大学路", "机场路", "环城路"),
}
WAYS = {
    "en": ("inbound", "outbound", "clockwise", "anticlockwise"),
    "zh": ("进城方向", "出城方向", "外环", "内环"),
}  # fmt: skip
DISTRICT = {"en": ("the Centre", "North", "East", "South", "West"), "zh": ("市中心", "北区", "东区", "南区", "西区")}

TRAFFIC: dict[str, Wordings] = {
    "jam": {
        "en": (
            "{road} is [jam|bumper to bumper]", "[jam|Nothing is moving] on {road}",
            "{road}: [jam|at a standstill] for {n} minutes", "[jam|Huge traffic jam] on {road}",
            "We are [jam|stuck in a queue] on {road}, doing {speed} km/h", "traffic on {road} is [jam|crawling]",
            "{road} [jam|completely jammed] again", "Is there an accident? {road} is [jam|totally blocked]",
            "it took me {n} minutes to pass {road}, [jam|stop and go all the way]", "[jam|gridlock] on {road}",
            "Avoid {road}, [jam|it is packed]", "{road} [jam|backed up] as far as the bridge",
            "Not free-flowing at all: {road} is [jam|jammed solid]",
            "The lights at {road} never change and so [jam|the queue does not move]",
        ),
        "zh": (
            "{road}[jam|堵死了]", "{road}现在[jam|堵得一动不动]", "{road}[jam|拥堵严重]，{n}分钟没动",
            "在{road}[jam|车排成了长龙]", "{road}又[jam|水泄不通]", "{road}[jam|走走停停]，时速只有{speed}公里",
            "是不是出事故了，{road}[jam|完全走不动]", "{road}[jam|堵车]堵了快{n}分钟",
            "大家别走{road}，[jam|堵成一锅粥]", "{road}[jam|寸步难行]", "{road}一点都不畅通，[jam|全是车]",
            "红绿灯时间太短，{road}[jam|排队排到桥上了]",
        ),
    },
    "free": {
        "en": (
            "{road} is [free|moving freely]", "[free|No delays] on {road}", "{road}: [free|clear all the way]",
            "good news, [free|the jam has cleared] on {road}", "[free|No traffic at all] on {road}",
            "{road} [free|flowing fine], {speed} km/h", "Map shows a jam on {road} but [free|the road is empty]",
            "just drove {road}, [free|smooth ride]", "[free|traffic is back to normal] on {road}",
            "why is the diversion still signed? {road} is [free|not congested any more]",
            "{road} [free|quiet], nice driving",
        ),
        "zh": (
            "{road}[free|一路畅通]", "{road}现在[free|不堵了]", "{road}[free|车流顺畅]，时速{speed}公里",
            "{road}[free|已经恢复正常]", "导航说{road}拥堵，其实[free|一点都不堵]", "刚走过{road}，[free|很通畅]",
            "{road}[free|车很少]，开起来很舒服", "绕行牌怎么还没撤，{road}[free|早就通了]", "{road}[free|没有堵车]",
        ),
    },
}  # fmt: skip
"""`{road}` is a stretch of a road."""

TOPICS: dict[str, Topic] = {
    "traffic": Topic("transport", 0.7, {}),  # TRAFFIC
    "bus": Topic("transport", 0.8, {
        "en": (
            "Bus {n} did not come again at {street}", "the {n} bus was {m} minutes late this morning",
            "Why was the stop at {street} moved?", "Bus driver on line {n} closed the doors in front of us",
            "the bus stop in {street} has no shelter and no timetable",
            "More buses on line {n} please, we cannot get on in the morning",
        ),
        "zh": (
            "{n}路公交又没来", "{n}路车晚点{m}分钟", "{street}的公交站为什么取消了", "{n}路司机不等人就关门",
            "{street}站台没有雨棚也没有时刻表", "早高峰{n}路根本挤不上，能不能加车",
        ),
    }),
    "signal": Topic("transport", 0.6, {
        "en": (
            "The traffic light at {street} is stuck on red",
            "pedestrian light at {street} gives us {m} seconds only",
            "Road works in {street} without any diversion sign", "cars park on the cycle lane in {street}",
            "lane markings at {street} can hardly be seen", "The level crossing at {street} stays closed too long",
        ),
        "zh": (
            "{street}的红绿灯坏了，一直是红灯", "{street}行人绿灯只有{m}秒", "{street}修路没有绕行标志",
            "{street}自行车道上停满了车", "{street}的标线看不清了", "{street}路口道闸关得太久",
        ),
    }),
    "parking": Topic("transport", 0.5, {
        "en": (
            "No parking place to be found around {street}", "Somebody blocks our drive in {street} every day",
            "Parking in {street} used to be free on Sundays, why the meter?",
            "delivery vans double-park at {street}",
        ),
        "zh": (
            "{street}附近根本没有车位", "{street}天天有人堵住我家车库门口",
            "{street}周日停车以前免费，现在怎么收费了", "送货车在{street}乱停",
        ),
    }),
    "air": Topic("environment", 0.5, {
        "en": (
            "The air in {district} is awful today, my eyes burn",
            "Smog over {district} again, the monitor says {pm}",
            "smoke from chimneys in {street}, we cannot open the windows", "strong exhaust smell around {street}",
            "My son's asthma is bad these days, what is in the air of {district}?",
            "a burning smell hangs over {street}",
        ),
        "zh": (
            "{district}今天空气太差了，眼睛都疼", "{district}又是雾霾，仪器显示{pm}",
            "{street}有人烧东西，烟味很大，窗户都不敢开", "{street}尾气味道很重",
            "这几天孩子哮喘又犯了，{district}空气到底怎么样", "{street}一股烧焦的味道",
        ),
    }),
    "noise": Topic("environment", 0.8, {
        "en": (
            "Construction noise in {street} until {m} at night", "the bar in {street} plays music all night long",
            "pumps at the works in {street} drone day and night",
            "Motorbikes race through {street} at night, the noise is unbearable", "generator noise from {street}",
        ),
        "zh": (
            "{street}工地半夜还在施工，吵得睡不着", "{street}酒吧音乐放到凌晨", "{street}的水泵日夜轰鸣",
            "半夜有人在{street}飙车，噪音太大", "{street}发电机噪声扰民",
        ),
    }),
    "green": Topic("environment", 0.6, {
        "en": (
            "Somebody felled the trees in {street}", "the canal behind {street} stinks and dead fish float in it",
            "Illegal dumping behind {street}: tyres and paint", "The works in {street} covers everything in dust",
            "oil on the water near {street}", "dog dirt and litter all over the park at {street}",
        ),
        "zh": (
            "{street}的树被人砍了", "{street}后面的河发臭，还有死鱼", "有人在{street}偷倒垃圾、轮胎和油漆",
            "{street}工地扬尘很大，到处是灰", "{street}河面上有油污", "{street}公园里全是狗屎和垃圾",
        ),
    }),
    "power": Topic("energy", 0.8, {
        "en": (
            "Power cut in {street} since {m} o'clock", "No electricity in our block in {district}",
            "lights flicker every evening in {street}", "the voltage drops whenever everybody cooks",
            "A cable hangs loose from the pole in {street}", "transformer in {street} hums and gets hot",
        ),
        "zh": (
            "{street}停电了", "{district}我们这栋楼没电", "{street}每天晚上灯都一闪一闪的", "一到做饭时间电压就不稳",
            "{street}电线杆上的线掉下来了", "{street}变压器嗡嗡响还发烫",
        ),
    }),
    "lamps": Topic("energy", 0.6, {
        "en": (
            "Street light out at {street}", "the lamps in {street} burn in broad daylight, a waste of power",
            "it is pitch dark in {street}, {m} lamps are dead", "lamp post in {street} blinks all night",
        ),
        "zh": (
            "{street}路灯坏了", "{street}的路灯大白天还亮着，浪费电", "{street}一片漆黑，{m}盏灯都不亮",
            "{street}路灯整夜闪烁",
        ),
    }),
    "meter": Topic("energy", 0.7, {
        "en": (
            "My electricity bill doubled, please check the meter", "the charging point in {street} is broken",
            "When does the heat network reach {street}?", "How do I register solar panels with the grid?",
            "The smart meter shows {n} kWh a day, that cannot be", "heating in {district} is lukewarm",
        ),
        "zh": (
            "电费翻了一倍，请查一下电表", "{street}充电桩坏了", "集中供热什么时候通到{street}",
            "屋顶光伏怎么申请并网", "智能电表显示一天{n}度，不可能", "{district}暖气不热",
        ),
    }),
    "leak": Topic("safety", 0.4, {
        "en": (
            "Water comes up through the pavement in {street}", "burst pipe in {street}, the water shoots up",
            "No water pressure in {district} since this morning",
            "a leak in {street}, the street is wet though it has not rained", "the hydrant in {street} is dripping",
            "brown water from the tap in {district}",
        ),
        "zh": (
            "{street}地面往外冒水", "{street}水管爆了，水喷得很高", "{district}从早上起水压就很低",
            "{street}漏水，没下雨路面也是湿的", "{street}消火栓在滴水", "{district}自来水发黄",
        ),
    }),
    "flood": Topic("safety", 0.3, {
        "en": (
            "The underpass at {street} is under water", "drains in {street} are blocked and the water rises",
            "My cellar in {street} is flooded", "knee-deep water in {street} after the rain",
            "manhole cover washed away in {street}",
        ),
        "zh": (
            "{street}地下通道被淹了", "{street}下水道堵了，水越积越深", "我家{street}地下室进水了",
            "雨后{street}积水到膝盖", "{street}井盖被水冲走了",
        ),
    }),
    "danger": Topic("safety", 0.9, {
        "en": (
            "It smells of gas in {street}", "ice on the steps at {street}, an old man fell",
            "Cars speed past the school in {street}", "a tree is about to fall on {street}",
            "Break-ins in {street}, {m} this week", "the fire exit in {street} is locked",
            "scaffolding in {street} is loose", "Someone was nearly hit at the crossing in {street}",
        ),
        "zh": (
            "{street}有煤气味", "{street}台阶结冰，老人摔倒了", "{street}学校门口车开得太快",
            "{street}有棵树快要倒了", "{street}这周入室盗窃{m}起", "{street}消防通道被锁了", "{street}脚手架松了",
            "{street}人行横道差点撞到人",
        ),
    }),
    "school": Topic("civic", 0.7, {
        "en": (
            "No place for my daughter at the school in {street}", "When does enrolment for the nursery begin?",
            "the school canteen serves strawberry jam and white bread every day",
            "school gym in {street} is closed, why?",
        ),
        "zh": (
            "{street}小学没有名额，孩子上学怎么办", "幼儿园什么时候报名", "学校食堂的饭菜太差了",
            "{street}学校体育馆为什么关了",
        ),
    }),
    "housing": Topic("civic", 0.8, {
        "en": (
            "I have been on the housing list for {n} months",
            "mould in our flat in {street}, the landlord does nothing", "How do I apply for rent support?",
            "the lift in our block in {street} has been out for {m} days",
            "The stairwell light in our building in {street} has been broken for weeks",
        ),
        "zh": (
            "公租房排了{n}个月了", "{street}房子发霉，房东不管", "租房补贴怎么申请", "{street}我们楼电梯坏了{m}天",
            "{street}楼道里的灯坏了好几周没人修",
        ),
    }),
    "office": Topic("civic", 0.9, {
        "en": (
            "I queued {m} hours at the town hall",
            "The printer at the office in {street} had a paper jam and they sent us home",
            "how do I get a resident parking permit?", "My passport application is stuck",
            "Are the courses at the library free of charge?", "The tax letter has the wrong name on it",
            "opening hours of the office in {street}?",
        ),
        "zh": (
            "在政务大厅排队{m}个小时", "{street}办事处打印机卡纸，让我们白跑一趟", "居民停车证怎么办",
            "护照申请一直没有进展", "图书馆的课程免费吗", "税单上的名字写错了", "{street}办事处几点开门",
        ),
    }),
    "waste": Topic("civic", 0.8, {
        "en": (
            "The bins in {street} have not been emptied for {m} days", "Where do I take an old fridge?",
            "rats around the bins in {street}", "The playground in {street} is full of broken glass",
            "benches in the park at {street} are broken", "graffiti in {street}",
        ),
        "zh": (
            "{street}的垃圾桶{m}天没人收了", "旧冰箱扔哪里", "{street}垃圾桶边有老鼠", "{street}儿童乐园全是碎玻璃",
            "{street}公园的长椅坏了", "{street}墙上被乱涂乱画",
        ),
    }),
}  # fmt: skip

SLOTS: dict[str, Wordings] = {
    "street": {
        "en": (
            "Mill Lane", "Station Square", "Rose Street", "Canal Street", "Church Street", "Garden Row",
            "Linden Avenue", "Old Market", "Brewer's Yard", "Tulip Square", "Kings Parade", "Dock Street",
            "Elm Road", "School Lane", "Harbour Road", "University Avenue",
        ),
        "zh": (
            "磨坊巷", "车站广场", "玫瑰街", "运河街", "教堂街", "花园路", "椴树大道", "老市场", "郁金香广场",
            "国王大道", "码头街", "榆树路", "学堂巷", "港口路", "大学路",
        ),
    },
}  # fmt: skip

GREET = {
    "en": (
        "Hello,", "Hi,", "Dear city council,", "Good morning,", "To whom it may concern,", "hey",
        "Dear Sir or Madam,", "URGENT!",
    ),
    "zh": ("您好，", "你好，", "领导好，", "尊敬的市长：", "你们好！", "请问，", "急！", "市民热线："),
}  # fmt: skip
DETAIL = {
    "en": (
        "This has been going on for {n} days.", "I have reported it {m} times.", "Nobody answers the phone.",
        "My neighbours say the same.", "We pay taxes for this!", "It was better last year.",
        "There are children and old people here.", "I took a picture of it.", "It starts every evening around {m}.",
        "Since the rain it is worse.", "I am late for work because of this.", "It is dark and dangerous.",
        "The whole street is talking about it.", "Somebody from the city came, looked and left again.", "It stinks.",
        "The noise is terrible.", "I am not the only one.", "Last week it was the same near {street}.",
        "At night I cannot sleep.", "A car could hit someone.", "The road is broken there as well.",
        "They told me another department is in charge.", "The lights do not help either.",
        "My mother of {n} cannot go out.", "The shop at the corner knows about it too.",
        "We need water and light like everybody.",
    ),
    "zh": (
        "已经{n}天了。", "我反映过{m}次了。", "电话一直没人接。", "邻居们也这么说。", "我们是纳税人！",
        "去年还好好的。", "这里有老人和小孩。", "我拍了照片。", "每天晚上{m}点左右就开始。", "下雨以后更严重了。",
        "害得我上班迟到。", "又黑又危险。", "整条街都在议论。", "有人来看过一眼就走了。", "味道很难闻。",
        "声音太吵了。", "不止我一个人这样。", "上周{street}那边也一样。", "晚上睡不着觉。", "万一撞到人怎么办。",
        "那边的路也坏了。", "他们说归别的部门管。", "灯也不亮。", "我妈妈{n}岁了出不了门。", "街角的店主也知道。",
        "大家都要用水用电。",
    ),
}  # fmt: skip
CLOSE = {
    "en": (
        "Please do something.", "When will it be solved?", "Thank you.", "Please send someone.",
        "I expect an answer.", "thx", "Kind regards", "Who is responsible?", "Thanks for your work!",
        "What can I do?",
    ),
    "zh": (
        "请尽快处理。", "什么时候能解决？", "谢谢！", "请派人来看看。", "希望得到答复。", "到底归谁管？", "辛苦了。",
        "我该怎么办？", "请重视。", "麻烦了",
    ),
}  # fmt: skip
VAGUE = {
    "en": (
        "Nothing has happened since my last message", "Same problem as yesterday in {street}",
        "Is anybody reading this?", "It is still not solved", "Hello??", "when will someone come to {street}",
        "Please call me back", "It got worse",
    ),
    "zh": (
        "上次反映的问题还没解决", "{street}还是老样子", "有人看吗", "到现在也没人管", "有人吗？？",
        "什么时候来{street}", "请给我回电话", "更严重了",
    ),
}  # fmt: skip
ALSO = {
    "en": (". Also: ", ". And another thing: ", ". By the way, ", "; besides, "),
    "zh": ("。另外，", "。还有，", "，顺便说一下，", "，而且"),
}
END = {"en": (". ", "! ", ". ", " "), "zh": ("。", "！", "，", "。")}

CONTACT = {
    "en": (
        "My name is {name}.", "Call me on {phone}.", "You reach me at {mail}", "{name}, {phone}",
        "The car has the plate {plate}.", "Mail: {mail}", "I am {name}, ID {identity}.", "tel. {phone}",
    ),
    "zh": (
        "我叫{name}。", "我的电话是{phone}。", "联系电话：{phone}", "{name} {phone}", "车牌号{plate}。",
        "邮箱{mail}", "本人{name}，身份证{identity}。", "请联系{name}，手机{phone}",
    ),
}  # fmt: skip
NAMES = {
    "en": (("Emma", "Noah", "Sophie", "Daan", "Olivia", "Lucas", "Fatima", "Jan", "Ingrid", "Tom"),
           ("Jansen", "de Vries", "Smith", "Bakker", "Visser", "Meyer", "Brown", "Yilmaz", "Peters", "Okafor")),
    "zh": (("王", "李", "张", "刘", "陈", "杨", "赵", "黄", "周", "吴"), (
        "伟", "芳", "秀英", "敏", "静", "强", "磊", "洋", "艳", "志强",
    )),
}  # fmt: skip
ALIKE = {
    "的": "得",
    "在": "再",
    "做": "作",
    "那": "哪",
    "已": "以",
    "是": "事",
    "坏": "怀",
    "了": "啦",
    "严": "言",
    "停": "亭",
}
"""Characters that are typed for one another."""
