from __future__ import annotations

import math
import re
import string
from collections.abc import Iterator
from pathlib import Path

import pytest
from babel.messages.extract import extract_from_dir
from hypothesis import given
from hypothesis import strategies as st

from agents.language import LOCALES, Language, catalogue, spoken
from alerts import reasons as telling
from alerts.offers import candidates
from alerts.policy import Policy
from alerts.reasons import _TELLS, reasons
from alerts.words import ENGLISH, Words
from features.cold import CartItem, Case, Cold, Interest
from features.customer import Customer
from features.shop import DAY, Shop
from features.signals import Signals
from tests.alerts.evidence import evidence
from tests.alerts.test_reasons import basket
from tests.application import day

Message = str | tuple[str, ...]
ALERTS = Path(telling.__file__).parent
LANGUAGES = {locale: Language(locale) for locale in LOCALES}
CHINESE = ("zh_Hans", "zh_Hant")


def messages() -> set[Message]:
    """Every message that the core says."""
    marks = {"say": None, "message": None, "count": (1, 2)}
    found = extract_from_dir(ALERTS, method_map=[("**.py", "python")], keywords=marks)
    return {message for _, _, message, _, _ in found}


def places(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}


def said(locale: str) -> Iterator[tuple[Message, tuple[str, ...]]]:
    for entry in catalogue(locale):
        if entry.id:
            assert entry.string is not None
            yield _whole(entry.id), _parts(entry.string)


def _whole(message: str | list[str] | tuple[str, ...]) -> Message:
    return message if isinstance(message, str) else tuple(message)


def _parts(texts: str | list[str] | tuple[str, ...]) -> tuple[str, ...]:
    return (texts,) if isinstance(texts, str) else tuple(texts)


# ---- the catalogues


@pytest.mark.parametrize("locale", LOCALES)
def test_every_message_is_there_in_every_language_and_none_is_left_over(locale: str) -> None:
    known = dict(said(locale))
    assert known.keys() - messages() == set(), "no code says these: take them out of the catalogue"
    assert messages() - known.keys() == set(), f"these are missing in alerts/locale/{locale}"
    assert all(all(texts) for texts in known.values())
    assert not any(entry.fuzzy for entry in catalogue(locale) if entry.id)


@pytest.mark.parametrize("locale", LOCALES)
def test_a_translation_has_the_places_of_its_message(locale: str) -> None:
    for message, texts in said(locale):
        one, many = message if isinstance(message, tuple) else (message, message)
        assert places(one) == places(many)
        for text in texts:
            assert places(text) == places(one), message


@pytest.mark.parametrize("locale", LOCALES)
def test_there_are_as_many_plurals_as_the_language_has(locale: str) -> None:
    whole = catalogue(locale)
    assert whole.num_plurals == (2 if locale == "en" else 1)
    for message, texts in said(locale):
        assert len(texts) == (whole.num_plurals if isinstance(message, tuple) else 1), message


def test_english_is_said_as_it_is_written() -> None:
    for message, texts in said("en"):
        assert texts == (message if isinstance(message, tuple) else (message,))


@pytest.mark.parametrize("locale", CHINESE)
def test_chinese_uses_chinese_signs(locale: str) -> None:
    for message, (text,) in said(locale):
        bare = re.sub(r"\{\w+\}", "", text)
        assert not re.search(r"[A-Za-z.,:;()\"]", bare), message
        if isinstance(message, str) and message.endswith(".") and not message.startswith("{"):
            assert text.endswith("。"), message
        # A number stands apart from what it counts.
        assert not re.search(r"[\u4e00-\u9fff]\{(count|time|amount|rating|best|own|shop)\}", text), message


def test_simplified_and_traditional_are_two_scripts() -> None:
    hans, hant = (
        set("购买览搜记录这顾客评诉价时间发决题无类约单"),
        set("購買覽搜記錄這顧客評訴價時間發決題無類約單"),
    )
    other = {"zh_Hans": hant - hans, "zh_Hant": hans - hant}
    for locale in CHINESE:
        for message, texts in said(locale):
            assert not set("".join(texts)) & other[locale], message


# ---- numbers, quantities, days


@pytest.mark.parametrize(
    ("number", "english", "simplified", "traditional"),
    [
        (0.0, "0 hours", "0 小时", "0 小時"),
        (0.04, "0 hours", "0 小时", "0 小時"),
        (1.0, "1 hour", "1 小时", "1 小時"),
        (1.04, "1 hour", "1 小时", "1 小時"),
        (1.5, "1.5 hours", "1.5 小时", "1.5 小時"),
        (2.0, "2 hours", "2 小时", "2 小時"),
        (9.94, "9.9 hours", "9.9 小时", "9.9 小時"),
        (9.96, "10 hours", "10 小时", "10 小時"),
        (1234.4, "1,234 hours", "1,234 小时", "1,234 小時"),
    ],
)
def test_quantities_agree_with_their_number(
    number: float, english: str, simplified: str, traditional: str
) -> None:
    told = [LANGUAGES[locale].count("{count} hour", "{count} hours", number) for locale in LOCALES]
    assert told == [english, simplified, traditional]
    assert ENGLISH.count("{count} hour", "{count} hours", number) == english


def test_a_day_is_the_shops_and_written_as_its_staff_write_it() -> None:
    late = day(0) + 20 * DAY // 24
    told = {locale: spoken(Shop(locale=locale, time_zone="Asia/Shanghai")).day(late) for locale in LOCALES}  # type: ignore[arg-type]
    assert told == {"en": "Jan 2, 2026", "zh_Hans": "2026年1月2日", "zh_Hant": "2026年1月2日"}
    assert Language("en").day(late) == "Jan 1, 2026"


@given(
    value=st.floats(-1e9, 1e9),
    digits=st.integers(0, 4),
    share=st.floats(-10, 10),
    at=st.integers(0, 4102444800_000_000),
)
def test_the_english_of_the_core_is_that_of_the_catalogue(
    value: float, digits: int, share: float, at: int
) -> None:
    babel = LANGUAGES["en"]
    assert ENGLISH.number(value, digits) == babel.number(value, digits)
    assert ENGLISH.percent(share) == babel.percent(share)
    assert ENGLISH.day(at) == babel.day(at)
    assert ENGLISH.count("{count} day", "{count} days", value) == babel.count(
        "{count} day", "{count} days", value
    )


# ---- whole reasons


def everything(count: int) -> tuple[Customer, Cold]:
    """A customer of whom everything is known, with so many of each."""
    steady = count / math.log(2.0)
    customer = Customer(
        orders=count,
        views=count,
        uses=count,
        returns=count,
        first_seen=day(0),
        first_purchase=day(0),
        last_purchase=day(90),
        last_browse=day(90),
        last_use=day(90),
        open_since=(day(99),),
        satisfaction=0.5,
        lost_at=day(95),
        browsed=(0.0, steady, steady),
        bought=(0.0, steady, steady),
        used=(0.0, steady, steady),
        signals=Signals(
            rating=0.2,
            returns_90=steady,
            returned_at=day(100),
            empty_30=steady,
            empty_at=day(100),
            carts_30=steady,
            carted_at=day(100),
        ),
    )
    names = ("coffee", "cups", "jam")[: count + 1]
    return customer, Cold(complaints={"k": Case(day(99), "delivery")}, basket=basket(*names))


def told(words: Words, count: int) -> str:
    customer, cold = everything(count)
    inputs = {"recency": float(count), "abandoned": 0.4, "discount_share": 0.4, "order_value": 1000.0}
    found = evidence(customer, day(100), cold, inputs=inputs, weights=dict.fromkeys(_TELLS, 1.0))
    return "\n".join(reason.text or "" for reason in reasons(found, words))


@pytest.mark.parametrize("count", [1, 2])
def test_what_is_written_is_grammatical_for_one_and_many(count: int) -> None:
    text = told(ENGLISH, count)
    assert text == told(LANGUAGES["en"], count)
    things = "day|hour|purchase|view|search|item|use|return|more category"
    assert not re.search(rf"(?<![\d.,])1 (?:{things})(?:s|es|ies)\b", text)
    assert not re.search(rf"(?<![\d.,])(?!1 )[\d.,]+ (?:{things})\b(?! or)", text)
    assert ("1 day" in text, "1 return" in text, "1 more category" in text) == (count == 1,) * 3


@pytest.mark.parametrize("locale", CHINESE)
def test_a_chinese_reason_has_no_english_in_it(locale: str) -> None:
    for count in (1, 2):
        text = told(LANGUAGES[locale], count).replace("coffee", "咖啡").replace("cups", "杯子")
        assert not re.search(r"[A-Za-z{}]", text)
        assert "  " not in text


def test_offers_are_told_in_the_same_languages() -> None:
    cold = Cold(
        basket={"茶": Interest(4, day(0), day(30), 2.0)},
        cart={"杯子": CartItem(day(41) - 5 * DAY // 24)},
        browsed={"奶": Interest(4, day(41), day(41), 4.0)},
    )
    buyer = Customer(orders=5, last_purchase=day(18))
    told = {
        locale: {c.type: c.text for c in candidates(buyer, cold, day(41), Policy(), LANGUAGES[locale])}
        for locale in LOCALES
    }
    assert told["en"] == {
        "replenish": "Buys 茶 about every 10 days, last 11 days ago.",
        "cart_abandoned": "Left 杯子 in the cart 5 hours ago.",
        "browse_abandoned": "Looked at 奶 4 times and did not buy.",
    }
    assert told["zh_Hans"] == {
        "replenish": "大约每 10 天购买一次“茶”，上次购买是在 11 天前。",
        "cart_abandoned": "5 小时前将“杯子”留在购物车中。",
        "browse_abandoned": "浏览“奶”共 4 次，但未购买。",
    }
    assert told["zh_Hant"] == {
        "replenish": "大約每 10 天購買一次「茶」，上次購買是在 11 天前。",
        "cart_abandoned": "5 小時前將「杯子」留在購物車中。",
        "browse_abandoned": "瀏覽「奶」共 4 次，但未購買。",
    }
