"""What stands beside what in a scene, from boxes: left, top, right, bottom."""

PLURALS = {"cross": "crosses", "scissors": "scissors"}


def plural(name: str) -> str:
    return PLURALS.get(name, f"{name}s")


def middle(box) -> tuple[float, float]:
    left, top, right, bottom = box
    return (left + right) / 2, (top + bottom) / 2


def longer_side(box) -> int:
    left, top, right, bottom = box
    return max(right - left, bottom - top)


def gap(one, other) -> int:
    """Pixels between two boxes: those between their columns or between their rows, if more."""
    across = max(other[0] - one[2], one[0] - other[2])
    down = max(other[1] - one[3], one[1] - other[3])
    return max(across, down)


def beside(thing, side: str, things) -> list:
    """The things wholly on a side of a thing, in a row or a column that both share."""
    left, top, right, bottom = thing.box
    found = []
    for other in things:
        its_left, its_top, its_right, its_bottom = other.box
        in_row = its_top < bottom and top < its_bottom
        in_column = its_left < right and left < its_right
        on_side = {
            "left": in_row and its_right <= left,
            "right": in_row and its_left >= right,
            "above": in_column and its_bottom <= top,
            "below": in_column and its_top >= bottom,
        }
        if on_side[side]:
            found.append(other)
    return found
