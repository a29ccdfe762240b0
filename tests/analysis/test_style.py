"""Labels of logarithmic axes can be read, whatever the axis spans."""

import itertools

import pytest

from analysis import style


@pytest.mark.parametrize("low", [1.3e-9, 1e-4, 3e5])
def test_labels_of_a_logarithmic_axis_stand_apart_however_many_decades_it_spans(low):
    with style.new_figure() as (figure, axes):
        axes.plot([], [], label="VAE gaussian-learned linear")
        figure.legend(loc="outside right upper")
        for decades in (0.05, 0.3, 0.9, 1.1, 1.9, 2.5, 5, 12, 40):
            limits = low, low * 10**decades
            axes.set(xscale="log", yscale="log", xlim=limits, ylim=limits)
            style.plain_log_ticks(axes, "xy")
            figure.draw_without_rendering()
            for axis in (axes.xaxis, axes.yaxis):
                places = zip(axis.get_ticklabels(), axis.get_ticklocs(), strict=True)
                shown = [label for label, at in places if limits[0] <= at <= limits[1]]
                assert len(shown) >= 2, decades
                boxes = [label.get_window_extent() for label in shown]
                assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2)), (decades, shown)
