"""What every figure keeps: nothing is cut off, and panels and legends do not overlap."""


def check_layout(figure):
    figure.draw_without_rendering()
    around, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
    assert around.x0 >= 0 and around.y0 >= 0
    assert around.x1 <= width + 0.01 and around.y1 <= height + 0.01
    boxes = [part.get_tightbbox() for part in (*figure.axes, *figure.legends)]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[i + 1 :])
