"""What a simulated life leaves behind in the shop's feeds: the events, in order of time."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

from agents.simulator.assumptions import CATALOGUE, COMPETITORS, Assumptions
from agents.simulator.dice import Dice
from agents.simulator.life import (
    DAY,
    HOUR,
    MINUTE,
    SECOND,
    Departure,
    Person,
    Trouble,
    Visit,
    live,
    whole_second,
)
from streams.events import (
    AlertFeedback,
    Cart,
    Checkout,
    Complaint,
    ComplaintUpdate,
    Contact,
    CustomerLost,
    Event,
    Forget,
    Inquiry,
    InquiryUpdate,
    Line,
    Merge,
    Parts,
    Profile,
    Purchase,
    Referral,
    Return,
    Review,
    Search,
    Survey,
    Use,
    View,
    to_datetime,
    to_micros,
)

SOURCE = "churnwatch-simulator"
DEVICES = {"web": ("desktop", "tablet", "mobile"), "app": ("mobile", "mobile", "tablet")}
REPRESENTATIVES = ("Amara", "Bram", "Chiara", "Deniz", "Emil", "Freya", "Goran", "Hana")
DEPARTMENT_OF = {"delivery": "logistics", "product": "quality", "service": "service", "price": "sales"}
COMPLAINT_TEXT = {
    "delivery": "The parcel came days after the promised date.",
    "product": "It broke the first time it was used.",
    "service": "Nobody could help, and nobody called back.",
    "price": "The same thing cost less a week ago.",
    "other": "The newsletter keeps coming although it was cancelled.",
}
QUESTIONS = ("delivery_date", "invoice", "product_advice", "availability", "warranty", "account")
COMPLAINT_CHANNELS: tuple[Literal["phone", "chat", "social", "store", "web"], ...] = (
    "phone",
    "chat",
    "social",
    "store",
    "web",
)
QUICK_HOURS, SLOW_HOURS = (1.0, 20.0), (72.0, 240.0)


class Piece(NamedTuple):
    """A product as a customer meets it."""

    sku: str
    category: str
    price: float
    returned: float


def _shelves() -> tuple[tuple[Piece, ...], ...]:
    """Each category's products, the most popular first; prices spread evenly in the logarithm."""
    shelves = []
    for category in CATALOGUE:
        code = category.name[:3].upper()
        shelf = []
        for index in range(category.skus):
            # 17 has no common factor with the number of products: popularity says nothing of the price.
            place = (index * 17 % category.skus) / category.skus - 0.5
            price = round(category.price * 3.0**place, 2)
            shelf.append(Piece(f"{code}-{index + 1:03d}", category.name, price, category.returned))
        shelves.append(tuple(shelf))
    return tuple(shelves)


SHELVES = _shelves()


class Traces:
    """The events of one customer: an iterator of (instant in microseconds, event) in order of time.

    What happens later than the next visit waits in ``_waiting``; what would belong before an instant
    that has been handed out already happens right after it. Memory is bounded by what one visit
    leaves behind.
    """

    def __init__(
        self,
        person: Person,
        life: Dice,
        dice: Dice,
        end: int,
        assumed: Assumptions,
        customers: int,
        privacy: bool,
    ) -> None:
        self._person = person
        self._visits = live(person, life, end, assumed)
        self._dice = dice
        self._end = end
        self._assumed = assumed
        self._customers = customers
        self._privacy = privacy
        self._waiting: list[tuple[int, int, Event]] = []
        self._count = 0
        self._cases = 0
        self._orders = 0
        self._spent = 0.0
        self._tier = "basic"
        self._told = person.arrival
        self._next_campaign = person.arrival + dice.uniform(0, assumed.campaign_days) * DAY
        self._next_call = person.arrival + dice.uniform(5, 9) * DAY
        self._bought: dict[int, int] = {}

    def __iter__(self) -> Iterator[tuple[int, Event]]:
        person = self._person
        self._profile(person.arrival)
        if person.kind == "prospect":
            for _ in range(1 + self._dice.poisson(2.0)):
                self._session(person.arrival + MINUTE + self._dice.exponential(6.0) * DAY, "web", carts=0.2)
        since = person.arrival
        for visit in self._visits:
            if since == person.arrival:
                self._background(since, visit.at, 1.0)
                if self._dice.chance(0.5):
                    self._session(since + 2 * MINUTE, "web", carts=0.2)
            yield from self._tell(visit.at - 2 * HOUR)
            self._purchase(visit, self._mood(visit))
            self._browse(visit)
            self._background(visit.at, visit.until, visit.browsing)
            since = visit.until
            if visit.departure is not None:
                self._last_words(visit.departure)
        while since < self._end:
            following = min(self._end, since + 30 * DAY)
            self._campaigns(since, following)
            yield from self._tell(following)
            since = following
        yield from self._tell(self._end)

    # What happens -----------------------------------------------------------------------------

    def _profile(self, at: float) -> None:
        person, dice = self._person, self._dice
        business = person.archetype.name == "business"
        self._put(
            Profile(
                **self._common(at),
                tier=self._tier,
                region=person.region,
                store=person.store,
                level=self._orders,
                points=float(int(self._spent)),
                locale="en",
                consent={"marketing": {"email": True, "phone": business}},
                key_account=True if business else None,
                owner=f"{person.region}.sales" if business else None,
                superior="head.sales" if business else None,
                contract_end=f"{to_datetime(self._end).year + 1}-12-31" if business else None,
                attributes={
                    "member": person.member,
                    "heard_of_us": ("search", "friend", "advert")[dice.below(3)],
                },
            ),
        )

    def _session(self, start: float, channel: str, carts: float, browsing: float = 1.0) -> None:
        """A look around without buying; with the chance ``carts`` something is put into the cart and left."""
        dice, assumed = self._dice, self._assumed
        device = DEVICES[channel][dice.below(3)]
        category = self._some_category()
        at = start
        if dice.chance(assumed.search):
            at = self._search(at, category)
        piece = SHELVES[category][0]
        for _ in range(1 + dice.poisson(max(0.0, assumed.views_per_session * min(browsing, 1.5) - 1.0))):
            if dice.chance(0.2):
                category = self._some_category()
            piece = SHELVES[category][dice.popular(len(SHELVES[category]))]
            at = self._view(at, piece, channel, device)
        if dice.chance(carts):
            at += dice.uniform(10, 40) * SECOND
            amount = self._price(piece)
            self._put(
                Cart(
                    **self._common(at),
                    action="add",
                    sku=piece.sku,
                    category=piece.category,
                    quantity=1.0,
                    amount=amount,
                )
            )
            if dice.chance(assumed.checkout_left):
                at += dice.uniform(20, 90) * SECOND
                self._put(Checkout(**self._common(at), amount=amount))

    def _browse(self, visit: Visit) -> None:
        """Looks around between this purchase and what follows it."""
        dice, assumed = self._dice, self._assumed
        start, stop = visit.at + 5 * HOUR, visit.until - 2 * HOUR
        if stop <= start:
            return
        # Looks follow the time that passes; whoever pauses does not look around all the while.
        share = min(2.0, (visit.until - visit.at) / (self._person.gap * DAY))
        carts = 0.85 if visit.fruitless else assumed.cart_in_session
        for _ in range(dice.poisson(assumed.sessions_per_purchase * visit.browsing * share)):
            self._session(dice.uniform(start, stop), ("web", "app")[dice.chance(0.4)], carts, visit.browsing)

    def _purchase(self, visit: Visit, mood: float) -> None:
        """The session that led to it if it was online, the purchase itself, and what follows from it."""
        person = self._person
        self._orders += 1
        order = f"o{person.number:06d}-{self._orders}"
        pieces = self._basket(visit)
        lines = tuple(self._line(piece) for piece in pieces)
        total = round(sum(line.amount for line in lines), 2)
        if visit.channel != "store":
            self._way_to(visit, pieces, total)
        self._spent += total
        self._put(
            Purchase(
                **self._common(visit.at),
                order=order,
                channel=visit.channel,
                store=person.store if visit.channel == "store" else None,
                region=person.region,
                lines=lines,
            ),
        )
        self._afterwards(visit, mood, order, lines)
        tier = "gold" if self._spent > 1500 else "silver" if self._spent > 500 else "basic"
        if tier != self._tier:
            self._tier = tier
            self._profile(visit.at + MINUTE)

    def _way_to(self, visit: Visit, pieces: list[Piece], total: float) -> None:
        dice, assumed = self._dice, self._assumed
        device = DEVICES[visit.channel][dice.below(3)]
        at = visit.at - (6 * MINUTE + len(pieces) * 2.5 * MINUTE)
        if dice.chance(assumed.search):
            at = self._search(at, self._some_category())
        for piece in pieces:
            if dice.chance(0.8):
                at = self._view(at, piece, visit.channel, device)
            if dice.chance(0.4):
                shelf = SHELVES[self._some_category()]
                at = self._view(at, shelf[dice.popular(len(shelf))], visit.channel, device)
            at += dice.uniform(2, 15) * SECOND
            self._put(
                Cart(
                    **self._common(at),
                    action="add",
                    sku=piece.sku,
                    category=piece.category,
                    quantity=1.0,
                    amount=piece.price,
                )
            )
        if dice.chance(assumed.cart_removed):
            shelf = SHELVES[self._some_category()]
            piece = shelf[dice.popular(len(shelf))]
            for action in ("add", "remove"):
                at += 5 * SECOND
                self._put(
                    Cart(
                        **self._common(at),
                        action=action,
                        sku=piece.sku,
                        category=piece.category,
                        quantity=1.0,
                    )
                )
        at = visit.at - dice.uniform(20, 50) * SECOND
        self._put(Checkout(**self._common(at), amount=total))

    def _afterwards(self, visit: Visit, mood: float, order: str, lines: tuple[Line, ...]) -> None:
        person, dice, assumed = self._person, self._dice, self._assumed
        rate = assumed.return_store if visit.channel == "store" else assumed.return_online
        factors = {category.name: category.returned for category in CATALOGUE}
        factor = sum(factors[line.category or ""] for line in lines) / len(lines)
        bad_product = visit.trouble is not None and visit.trouble.kind == "product"
        if dice.chance(0.6 if bad_product else min(0.9, rate * factor)):
            at = visit.at + dice.uniform(2, 14) * DAY
            back = lines[dice.below(len(lines))]
            reason = (
                "defect"
                if bad_product
                else ("not_as_expected", "wrong_size", "no_longer_needed")[dice.below(3)]
            )
            lost = Line(sku=back.sku, category=back.category, quantity=back.quantity, amount=back.amount)
            self._put(Return(**self._common(at), order=order, reason=reason, lines=(lost,)))
        if visit.trouble is not None and visit.trouble.handling != "untold":
            self._complaint(visit.trouble, lines)
        quiet = visit.departure is not None and visit.departure.silent
        if (
            dice.chance(assumed.survey if visit.trouble is None else assumed.survey_after_trouble)
            and not quiet
        ):
            self._survey(visit, mood)
        if dice.chance(assumed.review):
            at = visit.at + dice.uniform(3, 12) * DAY
            rating = float(min(5, max(1, round(1 + 4 * dice.normal(mood, 0.1)))))
            self._put(Review(**self._common(at), sku=lines[0].sku, rating=rating))
        if dice.chance(assumed.inquiry):
            self._inquiry(visit.at + dice.uniform(-0.5, 3) * DAY, lines[0])
        if mood > 0.7 and visit.departure is None and dice.chance(assumed.referral):
            at = visit.at + dice.uniform(0.1, 5) * DAY
            friend = f"friend-of-{person.customer}-{self._count}"
            self._put(
                Referral(**self._common(at), referee=friend, channel="link", converted=dice.chance(0.3))
            )

    def _complaint(self, trouble: Trouble, lines: tuple[Line, ...]) -> None:
        """A complaint and what the shop does about it: solved within a day, within days, or never."""
        dice = self._dice
        self._cases += 1
        case = f"k{self._person.number:06d}-{self._cases}"
        at = trouble.noticed
        line = lines[dice.below(len(lines))]
        self._put(
            Complaint(
                **self._common(at),
                complaint=case,
                kind=trouble.kind,
                severity=1 + dice.below(5) + (4 if trouble.handling == "unsolved" else 0),
                sku=line.sku,
                category=line.category,
                region=self._person.region,
                representative=REPRESENTATIVES[dice.below(len(REPRESENTATIVES))],
                department=DEPARTMENT_OF.get(trouble.kind, "service"),
                channel=COMPLAINT_CHANNELS[dice.below(5)],
                text=COMPLAINT_TEXT[trouble.kind],
            ),
        )
        answered = at + dice.lognormal(14.0, 0.8) * HOUR
        match trouble.handling:
            case "quick":
                solved = at + dice.uniform(*QUICK_HOURS) * HOUR
                self._case(min(answered, solved - MINUTE), case, "answered")
                self._case(solved, case, "resolved")
            case "slow":
                solved = at + dice.uniform(*SLOW_HOURS) * HOUR
                self._case(answered, case, "answered")
                self._case(max(solved, answered + HOUR), case, "resolved")
            case _:
                if dice.chance(0.5):
                    self._case(answered, case, "answered")
                    if dice.chance(0.4):
                        self._case(answered + DAY, case, "resolved")
                        self._case(answered + 2 * DAY, case, "reopened")
        if dice.chance(0.3):
            call = max(at, answered) + dice.uniform(0.5, 3) * HOUR
            self._put(
                Contact(
                    **self._common(call),
                    department="service",
                    channel="phone",
                    kind="service",
                    note="About the complaint.",
                )
            )

    def _case(self, at: float, case: str, status: Literal["answered", "resolved", "reopened"]) -> None:
        resolved = status == "resolved"
        self._put(
            ComplaintUpdate(
                **self._common(at),
                complaint=case,
                status=status,
                resolution="Replaced and apologised." if resolved else None,
                root_cause=("supplier", "carrier", "process")[self._dice.below(3)] if resolved else None,
            ),
        )

    def _survey(self, visit: Visit, mood: float) -> None:
        dice = self._dice
        at = (visit.at if visit.trouble is None else visit.trouble.noticed) + dice.uniform(1, 5) * DAY
        nps = dice.chance(0.4)
        scale = 10.0 if nps else 5.0
        felt = min(1.0, max(0.0, dice.normal(mood, 0.08)))
        score = float(round(felt * 10)) if nps else float(1 + round(felt * 4))
        parts = None
        if not nps and dice.chance(0.5):
            service = float(1 + round(min(1.0, max(0.0, dice.normal(felt, 0.1))) * 4))
            parts = Parts(quality=score, service=service)
        self._put(
            Survey(
                **self._common(at),
                instrument="nps" if nps else "csat",
                score=score,
                scale=scale,
                parts=parts,
                region=self._person.region,
                comment="Not again." if felt < 0.35 else None,
            ),
        )

    def _inquiry(self, at: float, line: Line) -> None:
        dice = self._dice
        at = max(at, self._told + MINUTE)
        self._cases += 1
        case = f"q{self._person.number:06d}-{self._cases}"
        self._put(
            Inquiry(
                **self._common(at),
                inquiry=case,
                topic=QUESTIONS[dice.below(len(QUESTIONS))],
                sku=line.sku,
                category=line.category,
                region=self._person.region,
                channel=COMPLAINT_CHANNELS[dice.below(5)],
            ),
        )
        if dice.chance(0.9):
            answered = at + dice.lognormal(5.0, 0.9) * HOUR
            self._put(InquiryUpdate(**self._common(answered), inquiry=case, status="answered"))
            closed = answered + dice.uniform(0.2, 2.0) * DAY
            self._put(InquiryUpdate(**self._common(closed), inquiry=case, status="closed"))

    def _background(self, start: int, stop: int, activity: float) -> None:
        """What does not depend on a purchase: use of the app, campaigns, calls on business customers."""
        dice, person = self._dice, self._person
        if person.member:
            weeks = (stop - start) / (7 * DAY)
            for _ in range(dice.poisson(self._assumed.uses_per_week * weeks * min(1.0, activity))):
                at = dice.uniform(start, stop)
                minutes = dice.lognormal(6.0, 0.6)
                self._put(Use(**self._common(at), context="loyalty_app", duration=float(round(minutes * 60))))
        self._campaigns(start, stop)
        while person.archetype.name == "business" and self._next_call < stop:
            at = self._next_call
            kind: Literal["visit", "call"] = "visit" if dice.chance(0.3) else "call"
            self._put(
                Contact(
                    **self._common(at),
                    department="sales",
                    channel="phone",
                    kind=kind,
                    outcome="reached" if dice.chance(0.7) else "no answer",
                )
            )
            if dice.chance(0.05):
                alert = f"simulated-{person.number:06d}-{self._count}"
                later = at + 5 * MINUTE
                self._put(AlertFeedback(**self._common(later), alert=alert, action="acknowledged"))
            self._next_call += dice.uniform(6, 9) * DAY

    def _campaigns(self, start: int, stop: int) -> None:
        """Campaigns reach everybody, also those who left: the shop does not know."""
        while self._next_campaign < stop:
            at = max(self._next_campaign, start)
            number = int(at // DAY // 30)
            self._put(
                Contact(
                    **self._common(at),
                    department="marketing",
                    channel="email",
                    kind="campaign",
                    campaign=f"news-{number}",
                )
            )
            self._next_campaign += self._assumed.campaign_days * self._dice.uniform(0.7, 1.3) * DAY

    def _last_words(self, departure: Departure) -> None:
        """Some say that they leave; a few ask to be forgotten or turn out to be somebody we know."""
        dice, person = self._dice, self._person
        if not departure.silent and dice.chance(self._assumed.says_lost):
            at = departure.at + dice.uniform(0.01, 1) * DAY
            rival = COMPETITORS[dice.below(len(COMPETITORS))] if departure.why == "competitor" else None
            self._put(CustomerLost(**self._common(at), reason=departure.why, competitor=rival))
        if self._privacy and dice.chance(0.03):
            at = departure.at + dice.uniform(5, 20) * DAY
            if dice.chance(0.5):
                self._put(Forget(**self._common(at)))
            else:
                other = (person.number + 1) % self._customers
                self._put(Merge(**self._common(at), into=f"c{other:06d}"))
            # Nothing more is heard of this name.
            self._end = min(self._end, whole_second(at) + SECOND)

    # Parts of it ------------------------------------------------------------------------------

    def _mood(self, visit: Visit) -> float:
        """How content the customer is after this visit, 0 to 1."""
        if visit.trouble is not None:
            return {"quick": 0.85, "slow": 0.6, "unsolved": 0.15, "untold": 0.3}[visit.trouble.handling]
        if visit.departure is not None and not visit.departure.silent:
            return {"drift": 0.6, "competitor": 0.55, "price": 0.4}.get(visit.departure.why, 0.5)
        return self._person.mood if visit.browsing >= 1 else 0.65

    def _basket(self, visit: Visit) -> list[Piece]:
        """What is due by its cycle first, then what else the customer likes, sometimes something new."""
        person, dice = self._person, self._dice
        fading = visit.browsing < 1 and (visit.departure is None or visit.departure.why == "drift")
        mean = person.archetype.lines * (0.6 if fading else 1.0)
        count = min(30, 1 + dice.poisson(max(0.0, mean - 1.0)))
        due = [
            category
            for category, cycle in zip(person.categories, person.cycles, strict=True)
            if visit.at - self._bought.get(category, 0) >= 0.75 * cycle * DAY
        ]
        pieces = []
        for index in range(count):
            category = due[index] if index < len(due) else self._some_category()
            shelf = SHELVES[category]
            self._bought[category] = visit.at
            if dice.chance(0.6):
                # The usual one: fixed by who the customer is.
                pieces.append(shelf[(person.number * 7 + category) % len(shelf)])
            else:
                pieces.append(shelf[dice.popular(len(shelf))])
        return pieces

    def _line(self, piece: Piece) -> Line:
        dice = self._dice
        list_price = self._price(piece)
        quantity = 1 + (dice.poisson(0.4) if piece.price < 40 else 0)
        full = round(list_price * quantity, 2)
        cost = round(full * 0.6, 2)
        if not dice.chance(min(0.95, self._assumed.discounted * self._person.archetype.bargains)):
            return Line(
                sku=piece.sku, category=piece.category, quantity=float(quantity), amount=full, cost=cost
            )
        off = (0.1, 0.15, 0.2, 0.3)[dice.below(4)]
        coupon = dice.chance(0.3)
        return Line(
            sku=piece.sku,
            category=piece.category,
            quantity=float(quantity),
            amount=round(full * (1 - off), 2),
            list_price=list_price,
            coupon=f"SAVE{off * 100:.0f}" if coupon else None,
            cost=cost,
        )

    def _price(self, piece: Piece) -> float:
        """Whoever buys dearer things buys dearer ones of every kind: a bundle, a bigger pack."""
        return round(piece.price * self._person.price_level, 2)

    def _some_category(self) -> int:
        """Mostly one of the customer's own, sometimes any."""
        if self._dice.chance(0.85):
            return self._person.categories[self._dice.below(len(self._person.categories))]
        return self._dice.below(len(SHELVES))

    def _view(self, at: float, piece: Piece, channel: str, device: str) -> float:
        at += self._dice.uniform(8, 70) * SECOND
        self._put(
            View(**self._common(at), sku=piece.sku, category=piece.category, channel=channel, device=device)
        )
        return at

    def _search(self, at: float, category: int) -> float:
        at += self._dice.uniform(5, 30) * SECOND
        words = CATALOGUE[category].name.replace("_", " ")
        self._put(Search(**self._common(at), query=words, results=self._dice.below(60)))
        return at

    # How it is told ---------------------------------------------------------------------------

    def _common(self, at: float) -> dict[str, Any]:
        """What every event has: an id that is this customer's own, and a time not before what was told."""
        self._count += 1
        return {
            "id": f"{self._person.customer}-{self._count}",
            "customer": self._person.customer,
            "time": to_datetime(whole_second(max(at, self._told))),
            "source": SOURCE,
        }

    def _put(self, event: Event) -> None:
        self._waiting.append((to_micros(event.time), self._count, event))

    def _tell(self, until: int) -> Iterator[tuple[int, Event]]:
        """Hand out what happened before ``until``, in order of time."""
        until = min(until, self._end)
        self._waiting.sort()
        cut = bisect_left(self._waiting, (until,))
        ready, self._waiting = self._waiting[:cut], self._waiting[cut:]
        self._told = max(self._told, until)
        for at, _, event in ready:
            yield at, event
