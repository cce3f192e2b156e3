//! The kernel's tables, entry by entry, against the configuration in force.

use super::{BY_ITSELF, Finding, Repair};
use crate::capture::{CaptureError, Differences};
use crate::lifecycle::daemon::{Daemon, lock};
use crate::lifecycle::tables::tables;

/// `None`: they are being changed right now, so that there is nothing to compare with.
fn differences(daemon: &Daemon) -> Result<Option<Differences>, CaptureError> {
    let applied = lock(&daemon.node).applied().cloned();
    let snapshot = daemon.relay.snapshot.load_full();
    let Some((generation, found)) = applied.filter(|(generation, _)| *generation == snapshot.generation)
    else {
        return Ok(None);
    };
    let differences = daemon.relay.capture.differences(&tables(&snapshot, &found))?;
    let same = lock(&daemon.node).applied() == Some(&(generation, found));
    Ok(same.then_some(differences))
}

pub(super) fn look(daemon: &Daemon) -> Vec<Finding> {
    match differences(daemon) {
        Ok(Some(differences)) if differences.tables.is_empty() => {
            let detail = format!("{} entries are as the configuration wants them", differences.entries);
            vec![Finding::good(None, detail)]
        }
        Ok(Some(differences)) => {
            let tables = differences.tables.iter();
            tables.map(|table| Finding::bad(None, table.to_string(), BY_ITSELF)).collect()
        }
        Ok(None) => vec![Finding::good(None, "they are being changed now: not compared")],
        Err(error) => vec![Finding::bad(None, error.to_string(), "See the daemon's log.")],
    }
}

pub(super) fn repair(daemon: &Daemon) -> Vec<Repair> {
    let Ok(Some(differences)) = differences(daemon) else { return Vec::new() };
    if differences.tables.is_empty() {
        return Vec::new();
    }
    let result = daemon.apply_tables_again().map_err(|error| error.to_string());
    let repair = |difference: &crate::capture::tables::compare::Difference| Repair {
        what: "table",
        detail: difference.to_string(),
        result: result.clone(),
    };
    differences.tables.iter().map(repair).collect()
}
