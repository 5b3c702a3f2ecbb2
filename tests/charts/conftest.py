"""What every chart must hold, whichever module draws it."""

from itertools import combinations

import matplotlib


def plain(text):
    """Text without line ends and non-breaking spaces."""
    return " ".join(text.split())


def finding(chart):
    return plain(chart.texts[0].get_text())


def shown_texts(chart):
    """Every piece of text that a reader sees, with its extent in pixels."""
    found = list(chart.texts)
    for axes in chart.axes:
        found += axes.texts
        if not axes.axison:
            continue
        found += [axes.title, axes._left_title, axes.xaxis.label, axes.yaxis.label]
        for axis, low_high in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
            ticks = zip(axis.get_ticklabels(), axis.get_ticklocs(), strict=False)  # shared: none
            found += [label for label, at in ticks if min(low_high) <= at <= max(low_high)]
    return [(text.get_text(), text.get_window_extent()) for text in found
            if text.get_visible() and text.get_text().strip()]


def check_texts(chart):
    """Text lies inside the figure, is large enough, and does not overlap."""
    chart.draw_without_rendering()  # lays it out
    texts = shown_texts(chart)
    assert len(texts) >= 4
    for text, box in texts:
        assert box.x0 >= 0 and box.x1 <= chart.bbox.width, f"{text!r} is cut at the side"
        assert box.y0 >= 0 and box.y1 <= chart.bbox.height, f"{text!r} is cut above or below"
    for (text, box), (other, its) in combinations(texts, 2):
        wide = min(box.x1, its.x1) - max(box.x0, its.x0)
        high = min(box.y1, its.y1) - max(box.y0, its.y0)
        assert wide <= 2 or high <= 4, f"{text!r} lies on {other!r}"
    assert min(t.get_fontsize() for t in chart.findobj(matplotlib.text.Text)) >= 12
