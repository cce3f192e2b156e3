//! Drawing into SVG: a canvas in pixels, with the few shapes that the plots need.

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::coord::cartesian::Cartesian2d;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::{
    Circle, DrawingArea, IntoDrawingArea as _, IntoFont as _, PathElement, Polygon, RGBColor, Rectangle,
    SVGBackend, Text,
};
use plotters::style::Color as _;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::super::text;
use super::palette::{GRID, INK, Look, Marker, PAPER};

/// Makes the neutral colours follow the reader's light or dark mode; without it they are those of light mode.
const STYLE: &str = "<style>@media (prefers-color-scheme: dark) {\
    .mtls-plot [fill=\"#1A1A1B\"] { fill: #e4e4e6 } .mtls-plot [stroke=\"#1A1A1B\"] { stroke: #e4e4e6 } \
    .mtls-plot [stroke=\"#D0D0D1\"] { stroke: #3c3e42 } .mtls-plot [fill=\"#FEFEFE\"] { fill: #18191b } \
    .mtls-plot [fill=\"#882255\"] { fill: #bb5588 } .mtls-plot [stroke=\"#882255\"] { stroke: #bb5588 } \
    .mtls-plot [fill=\"#0072B2\"] { fill: #2b8fd0 } .mtls-plot [stroke=\"#0072B2\"] { stroke: #2b8fd0 } \
    }</style>";

/// Where text stands from its point.
#[derive(Debug, Clone, Copy)]
pub enum Anchor {
    /// To the right of it.
    Start,
    /// Over and below it.
    Middle,
    /// To the left of it.
    End,
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

/// A picture that is being drawn; the origin is at the upper left.
pub struct Canvas<'a> {
    area: Area<'a>,
}

/// Draws a picture.
pub fn draw(
    title: &str,
    (width, height): (u32, u32),
    paint: impl FnOnce(&Canvas<'_>) -> Result<()>,
) -> Result<String> {
    let mut svg = String::new();
    {
        let root: DrawingArea<SVGBackend<'_>, Shift> =
            SVGBackend::with_string(&mut svg, (width, height)).into_drawing_area();
        root.fill(&PAPER).map_err(failed)?;
        let pixels = Cartesian2d::new(
            0.0..f64::from(width),
            0.0..f64::from(height),
            (0..i32::try_from(width)?, 0..i32::try_from(height)?),
        );
        let canvas = Canvas { area: root.apply_coord_spec(pixels) };
        paint(&canvas)?;
        canvas.area.present().map_err(failed)?;
    }
    let head = format!("<svg class=\"mtls-plot\" role=\"img\" aria-label=\"{}\" ", text::html(title));
    let svg = svg.replacen("<svg ", &head, 1);
    Ok(svg.replacen(">\n", &format!(">\n{STYLE}\n"), 1))
}

fn failed(error: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("cannot draw a plot: {error}")
}

impl Canvas<'_> {
    /// A thin line of the grid.
    pub fn grid(&self, from: (f64, f64), to: (f64, f64)) -> Result<()> {
        self.area.draw(&PathElement::new(vec![from, to], GRID)).map_err(failed)
    }

    /// A thin line in the colour of text.
    pub fn rule(&self, from: (f64, f64), to: (f64, f64)) -> Result<()> {
        self.area.draw(&PathElement::new(vec![from, to], INK)).map_err(failed)
    }

    /// A thick line through all points.
    pub fn line(&self, points: &[(f64, f64)], colour: RGBColor) -> Result<()> {
        if points.len() < 2 {
            return Ok(());
        }
        self.area.draw(&PathElement::new(points.to_vec(), colour.stroke_width(2))).map_err(failed)
    }

    /// The same in dashes.
    pub fn dashes(&self, points: &[(f64, f64)], colour: RGBColor) -> Result<()> {
        for (from, to) in points.iter().zip(points.iter().skip(1)) {
            let length = (to.0 - from.0).hypot(to.1 - from.1);
            let along = |distance: f64| {
                let share = (distance / length).min(1.0);
                (from.0 + (to.0 - from.0) * share, from.1 + (to.1 - from.1) * share)
            };
            let mut start = 0.0;
            while start < length {
                self.line(&[along(start), along(start + 6.0)], colour)?;
                start += 10.0;
            }
        }
        Ok(())
    }

    /// A bar from corner to corner.
    pub fn bar(&self, from: (f64, f64), to: (f64, f64), colour: RGBColor) -> Result<()> {
        self.area.draw(&Rectangle::new([from, to], colour.filled())).map_err(failed)
    }

    /// The sign of a system.
    pub fn marker(&self, (x, y): (f64, f64), look: Look) -> Result<()> {
        let fill = look.colour.filled();
        let polygon = |points: &[(f64, f64)]| {
            let points: Vec<(f64, f64)> = points.iter().map(|(dx, dy)| (x + dx, y + dy)).collect();
            self.area.draw(&Polygon::new(points, fill)).map_err(failed)
        };
        match look.marker {
            Marker::Circle => self.area.draw(&Circle::new((x, y), 4, fill)).map_err(failed),
            Marker::Square => polygon(&[(-4.0, -4.0), (4.0, -4.0), (4.0, 4.0), (-4.0, 4.0)]),
            Marker::Diamond => polygon(&[(0.0, -5.0), (5.0, 0.0), (0.0, 5.0), (-5.0, 0.0)]),
            Marker::Up => polygon(&[(0.0, -5.0), (5.0, 4.0), (-5.0, 4.0)]),
            Marker::Down => polygon(&[(0.0, 5.0), (5.0, -4.0), (-5.0, -4.0)]),
            Marker::Cross => {
                self.line(&[(x - 4.0, y - 4.0), (x + 4.0, y + 4.0)], look.colour)?;
                self.line(&[(x - 4.0, y + 4.0), (x + 4.0, y - 4.0)], look.colour)
            }
        }
    }

    /// One line of text in pixels of height.
    pub fn text(&self, text: &str, at: (f64, f64), anchor: Anchor, height: f64) -> Result<()> {
        let horizontal = match anchor {
            Anchor::Start => HPos::Left,
            Anchor::Middle => HPos::Center,
            Anchor::End => HPos::Right,
        };
        // The backend divides the size by this to come from a font's height to its size.
        let font = ("sans-serif", height * 1.24).into_font();
        let style = font.color(&INK).pos(Pos::new(horizontal, VPos::Center));
        self.area.draw(&Text::new(text::line(text), at, style)).map_err(failed)
    }
}
