//! How cost grows: with open connections for every system, with rules and workloads for mtlsd.

use std::time::Duration;

use anyhow::{Context, Result};

use super::measure::{Held, measure};
use super::plan::Plan;
use crate::result::{Axis, Curve, Point, Workload};
use crate::systems::{Kind, Running, Size};

/// For what was closed to be gone before the next point.
const SETTLE: Duration = Duration::from_secs(1);

/// Every curve of the plan.
pub fn run(plan: &Plan, running: &[Running]) -> Vec<Curve> {
    let mut curves = Vec::new();
    let connections = plan.curve(Axis::Connections);
    for system in running.iter().filter(|_| !connections.is_empty()) {
        curves.push(curve(system.kind, Axis::Connections, &connections, |count| {
            let held = Held::open(system, count)?;
            let point = point(system, plan, count)?;
            held.close();
            std::thread::sleep(SETTLE);
            Ok(point)
        }));
    }
    let mtlsd = running.iter().any(|system| system.kind == Kind::RelayUserspace);
    for axis in [Axis::Workloads, Axis::Rules].into_iter().filter(|_| mtlsd) {
        let sizes = plan.curve(axis);
        if sizes.is_empty() {
            continue;
        }
        curves.push(curve(Kind::RelayUserspace, axis, &sizes, |count| {
            let size = match axis {
                Axis::Rules => Size { rules: count, ..Size::default() },
                _ => Size { workloads: count, ..Size::default() },
            };
            let system = Running::start_sized(Kind::RelayUserspace, size)?;
            point(&system, plan, count)
        }));
    }
    curves
}

/// Goes along until something fails.
fn curve(kind: Kind, axis: Axis, sizes: &[u32], mut at: impl FnMut(u32) -> Result<Point>) -> Curve {
    let mut curve = Curve { system: kind.name().into(), axis, points: Vec::new(), failure: None };
    for &size in sizes {
        match at(size) {
            Ok(point) => {
                eprintln!("{kind} at {size} {axis:?}: {}", described(&point));
                curve.points.push(point);
            }
            Err(error) => {
                eprintln!("{kind} at {size} {axis:?}: {error:#}");
                curve.failure = Some(format!("at {size}: {error:#}"));
                break;
            }
        }
    }
    curve
}

/// Memory is taken first: what a system needs to be there, not what the load leaves in its allocator.
fn point(system: &Running, plan: &Plan, x: u32) -> Result<Point> {
    let memory = Some(system.resident()?);
    let median = |workload| -> Result<u64> {
        let round = measure(system, workload, plan, None)?;
        Ok(round.latency.context("nothing was answered")?.p50)
    };
    Ok(Point {
        x,
        request: Some(median(Workload::Requests { connections: 1, body: 64 })?),
        connection: Some(median(Workload::NewConnections { parallel: 1 })?),
        memory,
    })
}

fn described(point: &Point) -> String {
    let micros = |nanos: Option<u64>| nanos.map_or(0, |nanos| nanos / 1000);
    let mebibytes = point.memory.unwrap_or_default() / f64::from(1 << 20);
    format!(
        "{mebibytes:.1} MiB, request {} µs, connection {} µs",
        micros(point.request),
        micros(point.connection)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curve_ends_where_something_fails_and_says_why() {
        let sizes = [1, 10, 100];
        let made = curve(Kind::Auto, Axis::Rules, &sizes, |x| match x {
            100 => anyhow::bail!("no more"),
            x => Ok(Point { x, ..Point::default() }),
        });
        assert_eq!(made.points.iter().map(|point| point.x).collect::<Vec<_>>(), [1, 10]);
        assert_eq!(made.failure.unwrap(), "at 100: no more");
        let whole = curve(Kind::Auto, Axis::Rules, &sizes, |x| Ok(Point { x, ..Point::default() }));
        assert!(whole.points.len() == 3 && whole.failure.is_none());
    }
}
