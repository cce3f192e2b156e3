//! Other people's programs beside ours: [`crate::capture::order`] says which of them can undo what ours do.

use std::collections::BTreeSet;

use super::{Finding, places};
use crate::lifecycle::daemon::Daemon;

const MEND: &str = "Attach that program before mtlsd's, or to a cgroup below; else take it away. Until then mtlsd cannot \
                    promise what becomes of captured connections.";

pub(super) fn look(daemon: &Daemon) -> Vec<Finding> {
    let places = places(daemon);
    let namespaces = places.iter().map(|place| (place.cookie, &place.netns));
    let neighbours = match daemon.relay.capture.neighbours(namespaces) {
        Ok(neighbours) => neighbours,
        Err(error) => {
            let detail = format!("the kernel does not say which programs run: {error}");
            return vec![Finding::bad(None, detail, "Run mtlsd as root, or give it CAP_NET_ADMIN.")];
        }
    };
    let (undo, harmless): (Vec<_>, Vec<_>) = neighbours.iter().partition(|n| n.can_undo());
    let mut findings: Vec<_> = undo.iter().map(|n| Finding::bad(None, n.to_string(), MEND)).collect();
    if findings.is_empty() {
        let told: BTreeSet<String> = harmless.iter().map(ToString::to_string).collect();
        let told: Vec<_> = told.into_iter().collect();
        findings.push(Finding::good(
            None,
            match told.is_empty() {
                true => "no other program runs beside mtlsd's".to_owned(),
                false => format!("none that can undo what mtlsd's do; {}", told.join("; ")),
            },
        ));
    }
    findings
}
