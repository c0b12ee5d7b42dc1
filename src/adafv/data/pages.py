"""Pages: notices, receipts, tables, bar charts and screens, drawn with exact answers and boxes.

Reading is what pruning hurts first: an answer may be one token of hundreds. Every question is on
words or numbers that are drawn once, and knows their box. Only `Pillow` draws, with DejaVu Sans as
matplotlib ships it.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from adafv.data.sample import Box, Question, Sample
from adafv.utils.checks import checked

__all__ = ["KINDS", "SIZE", "draw_page"]

SIZE = (672, 672)
MARGIN = 48
INK = (28, 28, 32)
PAPERS = ((255, 255, 255), (250, 247, 238), (240, 244, 248))
ACCENTS = ((30, 90, 160), (150, 50, 40), (40, 110, 70), (110, 60, 130))

PLACES = ("Hall 2", "the library", "Room 14", "the old barn", "Gate 5", "the town square")
TITLES = ("Book sale", "Lost keys", "Choir practice", "Summer fair", "Night walk", "Chess club")
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
NAMES = ("Ada Brook", "Tom Reed", "Mia Lund", "Sam Okoro", "Eva Stone", "Noah Park")
SHOPS = ("Green Corner", "Mill Bakery", "North Market", "Blue Kiosk", "Harbour Store")
GOODS = ("bread", "milk", "apples", "coffee", "cheese", "rice", "tea", "honey", "eggs", "soap")
CITIES = ("Oslo", "Lima", "Cairo", "Quito", "Dakar", "Perth", "Turin", "Osaka", "Bergen", "Natal")
MEASURES = ("Rain", "Wind", "Sun", "Snow", "Visitors", "Trains")
FIELDS = ("Name", "City", "Language", "Theme", "Printer", "Folder")
VALUES = ("Ada Brook", "Oslo", "English", "Dark", "Office 3", "Photos", "Lima", "Norsk", "Light")
BUTTONS = ("Save", "Cancel", "Send", "Delete", "Print", "Share", "Retry", "Close")
SWITCHES = ("Sound", "Backup", "Updates", "Wi-Fi", "Location", "Alerts")


@functools.cache
def _font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    from matplotlib import get_data_path

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(get_data_path()) / "fonts" / "ttf" / name), size)


class _Page:
    """A sheet that is written on, and what may be asked about it."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.image = Image.new("RGB", SIZE, rng.choice(PAPERS))
        self.pen = ImageDraw.Draw(self.image)
        self.accent = rng.choice(ACCENTS)
        self.questions: list[Question] = []

    def write(
        self,
        x: int,
        y: int,
        text: str,
        size: int = 24,
        *,
        bold: bool = False,
        right: bool = False,
        color: tuple[int, int, int] = INK,
    ) -> Box:
        """Write a text from its left (or right) upper corner on; return its box."""
        font = _font(size, bold)
        if right:
            x -= round(font.getlength(text))
        self.pen.text((x, y), text, fill=color, font=font)
        left, top, far, bottom = self.pen.textbbox((x, y), text, font=font)
        return int(left), int(top), int(far) + 1, int(bottom) + 1

    def ask(self, text: str, answer: str, box: Box, *also: str) -> None:
        """Add a question whose answer stands in a box."""
        self.questions.append(Question(text, answer, "", (box,), also))


def _notice(page: _Page) -> None:
    """Draw a notice: a title, and a few facts in lines of their own."""
    rng = page.rng
    title = rng.choice(TITLES)
    box = page.write(MARGIN, MARGIN, title, 52, bold=True, color=page.accent)
    page.ask("What is the title of the notice?", title, box)

    hour = f"{rng.randint(1, 12)}:{rng.choice(('00', '15', '30', '45'))}"
    facts = [
        ("Day", rng.choice(DAYS), "Which day does the notice name?"),
        ("Time", hour, "What time does the notice give?"),
        ("Where", rng.choice(PLACES), "Where does it take place?"),
        ("Ask for", rng.choice(NAMES), "Who should one ask for?"),
        ("Phone", f"555-{rng.randint(1000, 9999)}", "What is the phone number?"),
        ("Price", f"${rng.randint(2, 90)}", "What is the price?"),
    ]
    rng.shuffle(facts)
    y = 170
    for label, value, question in facts[: rng.randint(4, 6)]:
        page.write(MARGIN, y, f"{label}:", 26)
        page.ask(question, value, page.write(230, y, value, 26, bold=True))
        y += rng.randint(58, 76)


def _receipt(page: _Page) -> None:
    """Draw a receipt: a shop, goods with their prices, and the total."""
    rng = page.rng
    shop = rng.choice(SHOPS)
    page.ask("What is the name of the shop?", shop, page.write(MARGIN, 40, shop, 40, bold=True))
    y = 130
    total = 0
    prices = rng.sample(range(95, 1900), 8)
    for goods, cents in zip(rng.sample(GOODS, rng.randint(4, 8)), prices, strict=False):
        price = f"{cents / 100:.2f}"
        name = page.write(MARGIN + 40, y, goods, 25)
        cost = page.write(SIZE[0] - 120, y, price, 25, right=True)
        page.ask(f"How much is the {goods}?", price, cost, f"${price}")
        page.ask(f"What costs {price}?", goods, name)
        total += cents
        y += 48
    page.pen.line((MARGIN + 40, y + 8, SIZE[0] - 120, y + 8), fill=INK, width=2)
    text = f"{total / 100:.2f}"
    page.write(MARGIN + 40, y + 22, "TOTAL", 27, bold=True)
    box = page.write(SIZE[0] - 120, y + 22, text, 27, bold=True, right=True)
    page.ask("What is the total?", text, box, f"${text}")


def _table(page: _Page) -> None:
    """Draw a table of cities and numbers."""
    rng = page.rng
    columns = rng.sample(MEASURES, 3)
    numbers = rng.sample(range(11, 99), 24)
    xs = (250, 420, 590)
    for x, name in zip(xs, columns, strict=True):
        page.write(x, 70, name, 24, bold=True, right=True, color=page.accent)
    y = 130
    for city in rng.sample(CITIES, rng.randint(4, 8)):
        box = page.write(MARGIN, y, city, 24)
        page.pen.line((MARGIN, y - 12, SIZE[0] - MARGIN, y - 12), fill=(200, 200, 205))
        for x, name in zip(xs, columns, strict=True):
            number = str(numbers.pop())
            cell = page.write(x, y, number, 24, right=True)
            page.ask(f"What is the number for {name} in {city}?", number, cell)
            # numbers stand once
            page.ask(f"Which city has {number} under {name}?", city, box)
        y += 58


def _chart(page: _Page) -> None:
    """Draw a bar chart with a number over each bar."""
    rng = page.rng
    names = rng.sample(CITIES, rng.randint(3, 6))
    heights = rng.sample(range(8, 96), len(names))
    page.write(MARGIN, 36, f"{rng.choice(MEASURES)} by city", 30, bold=True)
    floor = SIZE[1] - 90
    step = (SIZE[0] - 2 * MARGIN) // len(names)
    bars = []
    for index, (name, height) in enumerate(zip(names, heights, strict=True)):
        left = MARGIN + index * step + step // 6
        far = left + step * 2 // 3
        top = floor - round(height * 4.6)
        page.pen.rectangle((left, top, far, floor), fill=page.accent)
        box = page.write((left + far) // 2 - 14, top - 32, str(height), 22)
        page.write(left - 6, floor + 14, name, 21)
        page.ask(f"What is the number for {name}?", str(height), box)
        bars.append((height, name, (left - 6, top - 32, far, floor + 40)))
    page.pen.line((MARGIN, floor, SIZE[0] - MARGIN, floor), fill=INK, width=3)
    _, name, box = max(bars)
    page.ask("Which city has the highest bar?", name, box)
    _, name, box = min(bars)
    page.ask("Which city has the lowest bar?", name, box)


def _screen(page: _Page) -> None:
    """Draw the window of an application: fields, switches and buttons."""
    rng = page.rng
    page.pen.rectangle((0, 0, SIZE[0], 60), fill=page.accent)
    title = f"{rng.choice(('Account', 'Printing', 'Network', 'Display', 'Privacy'))} settings"
    page.ask(
        "What is the title of the window?",
        title,
        page.write(MARGIN, 14, title, 26, bold=True, color=(255, 255, 255)),
    )
    y = 100
    values = rng.sample(VALUES, 3)
    for label, value in zip(rng.sample(FIELDS, 3), values, strict=True):
        page.write(MARGIN, y + 8, label, 23)
        page.pen.rectangle((240, y, SIZE[0] - MARGIN, y + 44), outline=(150, 150, 155), width=2)
        box = page.write(254, y + 8, value, 23)
        page.ask(f"What does the field {label} hold?", value, box)
        y += 66
    for label in rng.sample(SWITCHES, 3):
        on = rng.random() < 0.5
        box = (MARGIN, y, MARGIN + 34, y + 34)
        page.pen.rectangle(box, outline=INK, width=3)
        if on:
            page.pen.line((MARGIN + 7, y + 17, MARGIN + 14, y + 26), fill=INK, width=5)
            page.pen.line((MARGIN + 14, y + 26, MARGIN + 28, y + 7), fill=INK, width=5)
        page.write(MARGIN + 52, y + 2, label, 23)
        page.ask(f"Is {label} switched on?", "yes" if on else "no", box)
        y += 56
    x = MARGIN
    for place, label in zip(("left", "middle", "right"), rng.sample(BUTTONS, 3), strict=True):
        page.pen.rounded_rectangle(
            (x, SIZE[1] - 96, x + 170, SIZE[1] - 44), 8, outline=page.accent, width=3
        )
        box = page.write(x + 34, SIZE[1] - 86, label, 24)
        page.ask(f"What does the {place} button at the bottom say?", label, box)
        x += 202


KINDS: dict[str, Callable[[_Page], None]] = {
    "notice": _notice,
    "receipt": _receipt,
    "table": _table,
    "chart": _chart,
    "screen": _screen,
}
QUESTIONS = 4  # of a page


@checked
def draw_page(seed: int, *, split: str = "test") -> Sample:
    """Draw a page with a few questions; the kinds take turns.

    Args:
        seed: of the page.
        split: no two splits share a page.
    """
    rng = random.Random(f"pages/{split}/{seed}")
    page = _Page(rng)
    kinds = list(KINDS)
    kind = kinds[seed % len(kinds)]
    KINDS[kind](page)
    asked = rng.sample(page.questions, min(QUESTIONS, len(page.questions)))
    questions = tuple(Question(q.text, q.answer, kind, q.boxes, q.also) for q in asked)
    return Sample(f"pages/{split}/{seed}", page.image, questions, ())
