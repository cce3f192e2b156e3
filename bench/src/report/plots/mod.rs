//! The plots, each a text of SVG.

mod bars;
mod canvas;
mod distribution;
mod frame;
mod growth;
mod palette;
mod scale;

pub use bars::{Panel, bars};
pub use distribution::distribution;
pub use growth::{Figure, Group, growth};
pub use scale::{KIBI, TEN};
