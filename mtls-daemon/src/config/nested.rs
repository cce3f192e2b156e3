//! Paths that lie inside one another.

use std::path::Path;

/// Of a list that is sorted by `path`: each one that lies at or inside another's, behind the outermost of those.
pub(crate) fn nested<T>(sorted: &[T], path: impl Fn(&T) -> &Path) -> Vec<(&T, &T)> {
    let mut pairs = Vec::new();
    let mut outer: Option<&T> = None;
    // Paths sort by segment, so that what lies inside one follows it directly.
    for inner in sorted {
        match outer {
            Some(outer) if path(inner).starts_with(path(outer)) => pairs.push((outer, inner)),
            _ => outer = Some(inner),
        }
    }
    pairs
}
