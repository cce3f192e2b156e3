//! How cost grows: both axes logarithmic, so that what grows in proportion is a straight line.

use anyhow::Result;

use super::super::units;
use super::canvas::{Canvas, draw};
use super::frame::{BOTTOM, Frame, LEFT, RIGHT, SIZE, TOP};
use super::palette::{Look, look};
use super::scale::{Powers, Scale, TEN};
use crate::result::{Curve, Point};

/// A figure of the points.
pub struct Figure {
    /// The value of a point.
    pub of: fn(&Point) -> Option<f64>,
    /// To tell two figures of a system apart.
    pub is_dashed: bool,
}

/// Figures of one unit.
pub struct Group<'a> {
    /// One line of each system for each of them.
    pub figures: &'a [Figure],
    /// A value for people.
    pub show: fn(f64) -> String,
    /// Where the round values are.
    pub powers: Powers,
}

struct Line<'a> {
    system: &'a str,
    look: Look,
    is_dashed: bool,
    points: Vec<(f64, f64)>,
}

/// The plot of some figures of some curves; none if there is no point.
pub fn growth<'a>(
    title: &str,
    subtitle: &str,
    x_title: &str,
    curves: &[&'a Curve],
    group: &Group<'_>,
) -> Result<Option<String>> {
    let of_curve =
        |curve: &&'a Curve| group.figures.iter().filter_map(|figure| line(curve, figure)).collect::<Vec<_>>();
    let lines: Vec<Line<'a>> = curves.iter().flat_map(of_curve).collect();
    let points = || lines.iter().flat_map(|line| &line.points);
    let (Some(x), Some(y)) = (
        Scale::log(points().map(|(x, _)| *x), LEFT, RIGHT),
        Scale::log(points().map(|(_, y)| *y), BOTTOM, TOP),
    ) else {
        return Ok(None);
    };
    let zero = points().any(|(x, _)| *x < 1.0).then(|| (x.at(position(0)), "0".to_owned()));
    let ticks = x.ticks(TEN).into_iter().filter(|tick| *tick >= 1.0 && tick.fract() == 0.0);
    let mut names: Vec<(Look, &str)> = lines.iter().map(|line| (line.look, line.system)).collect();
    names.dedup();
    let frame = Frame {
        title,
        subtitle,
        x_title,
        x_ticks: zero.into_iter().chain(ticks.map(|tick| (x.at(tick), units::grouped(tick, 0)))).collect(),
        y_ticks: y
            .ticks(group.powers)
            .into_iter()
            .map(|tick| (y.at(tick), units::tick(tick, group.show)))
            .collect(),
        names,
    };
    let paint = |canvas: &Canvas<'_>| {
        frame.draw(canvas)?;
        for line in &lines {
            let points: Vec<(f64, f64)> = line.points.iter().map(|(px, py)| (x.at(*px), y.at(*py))).collect();
            if line.is_dashed {
                canvas.dashes(&points, line.look.colour)?;
            } else {
                canvas.line(&points, line.look.colour)?;
            }
            for point in points {
                canvas.marker(point, line.look)?;
            }
        }
        Ok(())
    };
    draw(title, SIZE, paint).map(Some)
}

fn line<'a>(curve: &'a Curve, figure: &Figure) -> Option<Line<'a>> {
    let points = curve.points.iter().filter_map(|point| Some((position(point.x), (figure.of)(point)?)));
    let points: Vec<(f64, f64)> = points.filter(|(_, y)| *y > 0.0 && y.is_finite()).collect();
    (!points.is_empty()).then(|| Line {
        system: &curve.system,
        look: look(&curve.system),
        is_dashed: figure.is_dashed,
        points,
    })
}

/// None at all has no place on a logarithmic axis: it stands before one, and is labelled so.
fn position(x: u32) -> f64 {
    if x == 0 { 0.5 } else { f64::from(x) }
}

#[cfg(test)]
mod tests {
    use super::super::scale::KIBI;
    use super::*;
    use crate::result::Axis;

    fn plot(points: Vec<Point>) -> Option<String> {
        let curve = Curve { system: "relay-ktls".to_owned(), axis: Axis::Rules, points, failure: None };
        let memory = Figure { of: |point| point.memory, is_dashed: true };
        let group = Group { figures: &[memory], show: units::bytes, powers: KIBI };
        growth("t", "s", "x", &[&curve], &group).unwrap()
    }

    #[test]
    fn one_point_and_zero_and_nothing_do_no_harm() {
        let point = |x, memory| Point { x, memory: Some(memory), ..Point::default() };
        let svg = plot(vec![point(0, 1e6)]).unwrap();
        assert!(svg.contains("relay-ktls") && svg.contains(">\n0\n<"), "{svg}");
        assert!(plot(vec![point(1, 1e6), point(1, 1e6), point(10, 0.0)]).is_some());
        assert!(plot(vec![point(1, 0.0), Point::default()]).is_none());
        assert!(plot(vec![]).is_none());
    }
}
