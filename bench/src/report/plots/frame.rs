//! What is around lines: title, axes and the names of the systems.

use anyhow::Result;

use super::super::text;
use super::canvas::{Anchor, Canvas};
use super::palette::Look;

/// The whole picture.
pub const SIZE: (u32, u32) = (860, 440);
/// Where lines are drawn: left, top, right, bottom.
pub const LEFT: f64 = 84.0;
/// Its upper edge.
pub const TOP: f64 = 64.0;
/// Its right edge; the names stand beyond.
pub const RIGHT: f64 = 650.0;
/// Its lower edge.
pub const BOTTOM: f64 = 384.0;

/// What is written around the lines.
pub struct Frame<'a> {
    /// Above.
    pub title: &'a str,
    /// Below the title.
    pub subtitle: &'a str,
    /// Below the horizontal axis.
    pub x_title: &'a str,
    /// Pixel and label.
    pub x_ticks: Vec<(f64, String)>,
    /// Pixel and label.
    pub y_ticks: Vec<(f64, String)>,
    /// The systems, from the top.
    pub names: Vec<(Look, &'a str)>,
}

impl Frame<'_> {
    /// Draws it; the lines go over it.
    pub fn draw(&self, canvas: &Canvas<'_>) -> Result<()> {
        head(canvas, self.title, self.subtitle)?;
        for (x, _) in &self.x_ticks {
            canvas.grid((*x, TOP), (*x, BOTTOM))?;
        }
        for (x, label) in spaced(&self.x_ticks, width) {
            canvas.text(label, (x, BOTTOM + 16.0), Anchor::Middle, 12.0)?;
        }
        for (y, _) in &self.y_ticks {
            canvas.grid((LEFT, *y), (RIGHT, *y))?;
        }
        for (y, label) in spaced(&self.y_ticks, |_| 15.0) {
            canvas.text(label, (LEFT - 8.0, y), Anchor::End, 12.0)?;
        }
        canvas.rule((LEFT, TOP), (LEFT, BOTTOM))?;
        canvas.rule((LEFT, BOTTOM), (RIGHT, BOTTOM))?;
        canvas.text(self.x_title, (f64::midpoint(LEFT, RIGHT), BOTTOM + 40.0), Anchor::Middle, 12.0)?;
        let mut y = TOP + 8.0;
        for (look, name) in &self.names {
            canvas.line(&[(RIGHT + 18.0, y), (RIGHT + 46.0, y)], look.colour)?;
            canvas.marker((RIGHT + 32.0, y), *look)?;
            canvas.text(&text::short(name, 19), (RIGHT + 54.0, y), Anchor::Start, 12.0)?;
            y += 20.0;
        }
        Ok(())
    }
}

/// The title and what stands below it.
pub fn head(canvas: &Canvas<'_>, title: &str, subtitle: &str) -> Result<()> {
    canvas.text(title, (16.0, 20.0), Anchor::Start, 16.0)?;
    canvas.text(subtitle, (16.0, 42.0), Anchor::Start, 12.0)
}

/// About the width of a label with a gap: without fonts it can only be guessed.
fn width(label: &str) -> f64 {
    label.chars().count() as f64 * 7.0 + 8.0
}

/// The labels that do not touch each other, each of which needs some room.
fn spaced(ticks: &[(f64, String)], room: impl Fn(&str) -> f64) -> Vec<(f64, &str)> {
    let mut kept: Vec<(f64, &str)> = vec![];
    for (at, label) in ticks {
        let is_free =
            |(last, before): &(f64, &str)| (at - last).abs() >= f64::midpoint(room(before), room(label));
        if kept.last().is_none_or(is_free) {
            kept.push((*at, label));
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_that_would_touch_are_left_out() {
        let ticks = [(0.0, "0 %"), (34.0, "50 %"), (50.0, "90 %"), (100.0, "99 %")];
        let ticks = ticks.map(|(at, label)| (at, label.to_owned()));
        assert_eq!(spaced(&ticks, width), [(0.0, "0 %"), (34.0, "50 %"), (100.0, "99 %")]);
        assert_eq!(spaced(&ticks, |_| 40.0), [(0.0, "0 %"), (50.0, "90 %"), (100.0, "99 %")]);
        assert_eq!(spaced(&[], width), []);
    }
}
