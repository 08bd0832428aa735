"""What every figure keeps: nothing is cut off, and panels, legends and texts do not overlap."""

from matplotlib.text import Text

TOUCH = 1.5  # pixels that boxes of letters, which are larger than these, may share


def check_layout(figure):
    figure.draw_without_rendering()
    around, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
    assert around.x0 >= 0 and around.y0 >= 0
    assert around.x1 <= width + 0.01 and around.y1 <= height + 0.01
    boxes = [part.get_tightbbox() for part in (*figure.axes, *figure.legends)]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[i + 1 :])


def misplaced(figure):
    """Texts that leave the page, and pairs of texts that overlap, as the figure is drawn."""
    figure.draw_without_rendering()
    page = figure.bbox
    found = [(text.get_text(), text.get_window_extent()) for text in shown(figure)]
    wrong = [
        text
        for text, box in found
        if box.x0 < page.x0 - 1 or box.x1 > page.x1 + 1 or box.y0 < -1 or box.y1 > page.y1 + 1
    ]
    for place, (text, box) in enumerate(found):
        for other, its in found[place + 1 :]:
            across = min(box.x1, its.x1) - max(box.x0, its.x0)
            along = min(box.y1, its.y1) - max(box.y0, its.y0)
            if across > TOUCH and along > TOUCH:
                wrong.append((text, other))
    return wrong


def shown(figure):
    """All texts that are drawn: of ticks only those within the limits of their axis."""
    hidden = set()
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()):
                inside = low <= tick.get_loc() <= high and axes.axison
                drawn = axis.get_tick_params().get("labelleft", True) or tick.label1.get_visible()
                hidden |= set() if inside and drawn else {tick.label1}
                hidden.add(tick.label2)
    every = figure.findobj(lambda artist: isinstance(artist, Text))
    return [t for t in every if t.get_visible() and t.get_text().strip() and t not in hidden]
