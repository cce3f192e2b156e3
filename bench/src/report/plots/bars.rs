//! Bars: one panel for each workload, one bar for each system, with the range over the rounds.

use anyhow::Result;

use super::super::figures::Spread;
use super::super::text;
use super::canvas::{Anchor, Canvas, draw};
use super::frame::head;
use super::palette::look;
use super::scale::{Scale, bounds};

const WIDTH: u32 = 900;
const HEAD: u32 = 60;
const PANEL_HEAD: u32 = 30;
const BAR: u32 = 20;

/// The bars of one workload.
pub struct Panel {
    /// The workload.
    pub title: String,
    /// System, figure and its label; nothing if it has no figure.
    pub bars: Vec<(String, Option<(Spread, String)>)>,
}

/// The plot of all panels that have a figure, each with its own axis; none if there is none.
pub fn bars(title: &str, subtitle: &str, panels: &[Panel]) -> Result<Option<String>> {
    let panels: Vec<&Panel> =
        panels.iter().filter(|panel| panel.bars.iter().any(|(_, figure)| figure.is_some())).collect();
    let columns: u32 = if panels.len() > 1 { 2 } else { 1 };
    let lines = panels.chunks(columns.try_into()?).map(|line| {
        let tallest = line.iter().map(|panel| panel.bars.len()).max().unwrap_or(0);
        Ok((line, PANEL_HEAD + BAR * u32::try_from(tallest)? + 12))
    });
    let lines = lines.collect::<Result<Vec<_>>>()?;
    if lines.is_empty() {
        return Ok(None);
    }
    let height = HEAD + lines.iter().map(|(_, height)| height).sum::<u32>();
    let width = f64::from(WIDTH / columns);
    let paint = |canvas: &Canvas<'_>| {
        head(canvas, title, subtitle)?;
        let mut y = f64::from(HEAD);
        for (line, height) in &lines {
            let mut x = 0.0;
            for panel in *line {
                paint_panel(canvas, panel, (x, y), width)?;
                x += width;
            }
            y += f64::from(*height);
        }
        Ok(())
    };
    draw(title, (WIDTH, height), paint).map(Some)
}

fn paint_panel(canvas: &Canvas<'_>, panel: &Panel, (x, y): (f64, f64), width: f64) -> Result<()> {
    canvas.text(&panel.title, (x + 16.0, y + 14.0), Anchor::Start, 13.0)?;
    let spreads = panel.bars.iter().filter_map(|(_, figure)| figure.as_ref().map(|(spread, _)| spread));
    let (low, high) = bounds(spreads.flat_map(|spread| [spread.low, spread.high])).unwrap_or((0.0, 0.0));
    // The names stand to the left, the label of the longest bar to its right.
    let scale = Scale::linear(low.min(0.0), high.max(0.0), x + 136.0, x + width - 100.0);
    let zero = scale.at(0.0);
    let mut y = y + f64::from(PANEL_HEAD);
    for (name, figure) in &panel.bars {
        let middle = y + f64::from(BAR) / 2.0;
        canvas.text(&text::short(name, 16), (x + 128.0, middle), Anchor::End, 12.0)?;
        match figure {
            None => canvas.text("no figure", (zero + 6.0, middle), Anchor::Start, 12.0)?,
            Some((spread, label)) => {
                let (left, right) = (scale.at(spread.median).min(zero), scale.at(spread.median).max(zero));
                canvas.bar((left, y + 3.0), (right, y + f64::from(BAR) - 3.0), look(name).colour)?;
                let (low, high) = (scale.at(spread.low), scale.at(spread.high));
                if high - low >= 2.0 {
                    canvas.rule((low, middle), (high, middle))?;
                    canvas.rule((low, middle - 4.0), (low, middle + 4.0))?;
                    canvas.rule((high, middle - 4.0), (high, middle + 4.0))?;
                }
                canvas.text(label, (right.max(high) + 6.0, middle), Anchor::Start, 12.0)?;
            }
        }
        y += f64::from(BAR);
    }
    let top = middle_of_head(y, panel);
    canvas.rule((zero, top), (zero, y))
}

fn middle_of_head(bottom: f64, panel: &Panel) -> f64 {
    bottom - f64::from(BAR) * panel.bars.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn panel(values: &[Option<f64>]) -> Panel {
        let figure = |value: f64| (Spread { low: value, median: value, high: value }, format!("{value}"));
        let bars = values.iter().map(|value| ("envoy".to_owned(), value.map(figure))).collect();
        Panel { title: "one".to_owned(), bars }
    }

    #[test]
    fn zero_and_negative_and_missing_figures_do_no_harm() {
        let svg =
            bars("t", "s", &[panel(&[Some(0.0)]), panel(&[Some(-3.0), Some(4.0), None])]).unwrap().unwrap();
        assert!(svg.contains("envoy") && svg.contains("no figure"), "{svg}");
        assert!(!svg.contains("width=\"-") && !svg.contains("NaN"), "{svg}");
        assert!(bars("t", "s", &[]).unwrap().is_none());
        assert!(bars("t", "s", &[panel(&[None]), panel(&[])]).unwrap().is_none());
    }
}
