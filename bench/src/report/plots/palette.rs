//! How a system looks: the same in every plot, and told apart without colours too.

use plotters::prelude::RGBColor;

/// Text and axes; of the canvas's style sheet too.
pub const INK: RGBColor = RGBColor(0x1A, 0x1A, 0x1B);
/// Lines behind the figures.
pub const GRID: RGBColor = RGBColor(0xD0, 0xD0, 0xD1);
/// Behind everything.
pub const PAPER: RGBColor = RGBColor(0xFE, 0xFE, 0xFE);

/// The sign of a system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Marker {
    /// Round.
    Circle,
    /// Upright.
    Square,
    /// On its corner.
    Diamond,
    /// A triangle.
    Up,
    /// A triangle on its corner.
    Down,
    /// Two strokes.
    Cross,
}

/// How a system looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look {
    /// Of the palette of Okabe and Ito, made for the colour-blind; Tol's wine stands for its yellow, which is pale on white.
    pub colour: RGBColor,
    /// Says the same without colour.
    pub marker: Marker,
}

/// How a system looks, by its name: plain TCP grey, mtlsd blue and green, the others warm.
pub fn look(system: &str) -> Look {
    let (colour, marker) = match system {
        "plain" => (RGBColor(0x70, 0x75, 0x7A), Marker::Cross),
        "relay-userspace" => (RGBColor(0x00, 0x72, 0xB2), Marker::Circle),
        "relay-ktls" => (RGBColor(0x56, 0xB4, 0xE9), Marker::Square),
        "auto" => (RGBColor(0x00, 0x9E, 0x73), Marker::Diamond),
        // Tol's indigo.
        "direct" => (RGBColor(0x33, 0x22, 0x88), Marker::Up),
        "envoy" => (RGBColor(0xD5, 0x5E, 0x00), Marker::Up),
        "stunnel" => (RGBColor(0xE6, 0x9F, 0x00), Marker::Down),
        "haproxy" => (RGBColor(0xCC, 0x79, 0xA7), Marker::Square),
        "ztunnel" => (RGBColor(0x88, 0x22, 0x55), Marker::Diamond),
        _ => (RGBColor(0x99, 0x99, 0x33), Marker::Circle),
    };
    Look { colour, marker }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_systems_look_alike() {
        let names = [
            "plain",
            "relay-userspace",
            "relay-ktls",
            "auto",
            "direct",
            "envoy",
            "stunnel",
            "haproxy",
            "ztunnel",
            "other",
        ];
        for (i, one) in names.iter().enumerate() {
            for other in &names[i + 1..] {
                assert_ne!(look(one).colour, look(other).colour, "{one} {other}");
            }
        }
    }
}
