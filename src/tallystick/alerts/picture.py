"""A bar for each day, as a PNG: what a digest shows where a picture can be shown."""

from __future__ import annotations

from decimal import Decimal
from io import BytesIO
from typing import TYPE_CHECKING

from tallystick.model.money import show_usd

if TYPE_CHECKING:
    from collections.abc import Sequence

WIDTH, HEIGHT = 1000, 360
LEFT, RIGHT, TOP, BOTTOM = 24, 24, 64, 48
INK, PALE, BAR, LAST = "#1d1c1d", "#616061", "#9db8d9", "#1f5fa8"


def bars(title: str, days: Sequence[tuple[str, str]]) -> bytes | None:
    """Return the picture; None when Pillow, of the extra ``slack``, is not installed, or there is nothing to show."""
    try:
        from PIL import Image, ImageDraw, ImageFont
    except ModuleNotFoundError:
        return None
    amounts = [Decimal(amount) for _, amount in days]
    if not any(amounts):
        return None
    picture = Image.new("RGB", (WIDTH, HEIGHT), "white")
    draw = ImageDraw.Draw(picture)
    large, small = ImageFont.load_default(22), ImageFont.load_default(14)
    draw.text((LEFT, 18), title, fill=INK, font=large)
    step = (WIDTH - LEFT - RIGHT) / len(days)
    floor = HEIGHT - BOTTOM
    for number, ((label, _), amount) in enumerate(zip(days, amounts, strict=True)):
        left = LEFT + number * step
        height = float(amount / max(amounts)) * (floor - TOP - 20)
        colour = LAST if number == len(days) - 1 else BAR
        draw.rectangle((left + step * 0.12, floor - height, left + step * 0.88, floor), fill=colour)
        middle = left + step / 2
        draw.text((middle, floor - height - 4), show_usd(amount), fill=INK, font=small, anchor="mb")
        draw.text((middle, floor + 8), label, fill=PALE, font=small, anchor="mt")
    draw.line((LEFT, floor, WIDTH - RIGHT, floor), fill=PALE)
    file = BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()
