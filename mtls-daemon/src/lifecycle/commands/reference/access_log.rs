//! Fields, reasons and alerts of records.

use std::fmt;

use schemars::generate::SchemaSettings;
use serde_json::Map;

use super::keys::{Key, Schema};
use super::page::{Page, code, plain};
use crate::observe::alert::Alert;
use crate::observe::connection::{ConnectionRecord, Direction};
use crate::observe::explain::{Step, compared};
use crate::observe::reason::Reason;

const ABOUT: &str = "\
Fields of a line of the access log and of `mtlsd connections --json`, reasons of refusals, and TLS alerts as `mtlsd explain` reads them.
How the log is written and rotated, with examples: [access-log.md](../access-log.md).";

const REASONS: &str = "\
`reason.code` in a record, the label `reason` of metrics, and what `mtlsd explain` tells. The number is what one daemon tells the other
([protocol.md](../protocol.md)); of a number that it does not know it makes `unknown_NUMBER`. Checks are made in the order that is shown for each (inbound);
\"at any time\" has no place in it. What the application sees of a refusal: [errno.md](../errno.md).";

const ALERTS: &str = "\
What the peer says where it ends the handshake (reason `peer_alert`): each is a check *of the peer*, so the mend is at our end.";

pub(super) fn keys() -> Vec<Key> {
    let written = SchemaSettings::default().for_serialize().into_generator();
    let (root, nothing) = (written.into_root_schema_for::<ConnectionRecord>().to_value(), Map::new());
    Schema::new(&root, &nothing).keys("", &root, "")
}

pub(super) fn page() -> Result<String, fmt::Error> {
    let mut page = Page::new("Reference: access log", ABOUT);
    page.heading("Fields");
    page.paragraph("A field that is not \"always there\" is left out where it has nothing to say.");
    let row = |key: Key| {
        let there = if key.required { "always there" } else { "" };
        [code(key.path), key.value, there.to_owned(), plain(&key.meaning)]
    };
    page.table(["field", "value", "", "meaning"], keys().into_iter().map(row));

    page.heading("Reasons");
    page.paragraph(REASONS);
    let row = |reason: &Reason| {
        let step = Step::of(*reason);
        let place = step.and_then(|step| Step::ALL.iter().position(|one| *one == step));
        let checked = match (step, place) {
            (Some(step), Some(place)) => format!("{}. {}", place + 1, step.name(Direction::Inbound)),
            _ => "at any time".to_owned(),
        };
        let compared = compared::compared(*reason);
        [
            code(reason.code()),
            reason.number().to_string(),
            reason.sentence().to_owned(),
            checked,
            compared.to_owned(),
            reason.mend().to_owned(),
        ]
    };
    let head = ["code", "number", "what happened", "check", "compared", "what to do"];
    page.table(head, Reason::ALL.iter().map(row));

    page.heading("TLS alerts");
    page.paragraph(ALERTS);
    let row = |alert: &Alert| {
        let (number, code) = (alert.number().to_string(), code(alert.code()));
        [code, number, alert.sentence().to_owned(), alert.mend().to_owned()]
    };
    page.table(["alert", "number", "what the peer says", "what to do"], Alert::ALL.iter().map(row));
    Ok(page.text())
}
