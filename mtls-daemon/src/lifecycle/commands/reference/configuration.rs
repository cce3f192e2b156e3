//! Every key of the configuration.

use std::fmt;

use serde_json::{Map, Value};

use super::keys::{Key, Schema};
use super::page::{Page, code, plain};
use crate::config;
use crate::kube::pods::MODE;

const ABOUT: &str = "\
Every key of the main file, by its place from the top: `workloads[].name` is the key `name` of each entry of the list `workloads`. What they are for,
how they work together, drop-ins and what a reload can change: [configuration.md](../configuration.md). The same as a JSON schema: `mtlsd config schema`.
A drop-in holds `workloads`, `directory`, `modes`, `policy` and `outbound_policy` only, or resources of Istio ([policy.md](../policy.md)).";

/// A part of the document, and its keys.
pub(super) struct Part {
    pub name: String,
    about: String,
    pub keys: Vec<Key>,
}

/// First what has no keys of its own, then each key that has.
pub(super) fn parts<'a>(schema: &mut Schema<'a>, root: &'a Value) -> Vec<Part> {
    let mut alone = Part { name: String::new(), about: String::new(), keys: Vec::new() };
    let mut parts: Vec<Part> = Vec::new();
    for key in schema.keys("", root, "") {
        let top = key.path.split(['.', '[']).next().unwrap_or_default();
        match parts.last_mut().filter(|part| part.name == top) {
            Some(part) => part.keys.push(key),
            None => parts.push(Part { name: top.to_owned(), about: key.meaning.clone(), keys: vec![key] }),
        }
    }
    for part in parts.extract_if(.., |part| part.keys.len() == 1) {
        alone.keys.extend(part.keys);
    }
    parts.insert(0, alone);
    parts
}

pub(super) fn page() -> Result<String, fmt::Error> {
    let (root, nothing) = (config::schema(), Map::new());
    let mut page = Page::new("Reference: configuration", ABOUT);
    for Part { name, about, keys } in parts(&mut Schema::new(&root, &nothing), &root) {
        // What introduces a part is not told again as its first key.
        let (heading, skipped) = if name.is_empty() { ("Single keys".into(), 0) } else { (code(name), 1) };
        page.heading(heading);
        if !about.is_empty() {
            page.paragraph(&about);
        }
        page.table(["key", "value", "meaning"], keys.into_iter().skip(skipped).map(row));
    }
    labels(&mut page);
    Ok(page.text())
}

fn row(key: Key) -> [String; 3] {
    let required = if key.required { ", **required**" } else { "" };
    [code(key.path), format!("{}{required}", key.value), plain(&key.meaning)]
}

/// What the daemon reads from objects of Kubernetes.
fn labels(page: &mut Page) {
    page.heading("Labels of Kubernetes objects");
    page.paragraph(
        "Which pods are workloads. What a pod says goes before what its namespace says; a value that is none of these keeps the pod closed, as `strict` does.",
    );
    let on = "label of a namespace; label or annotation of a pod";
    let values = [
        ("strict", "Its pods are workloads that take mutual TLS only."),
        ("permissive", "Its pods are workloads that take plaintext, too."),
        (
            "enabled",
            "Its pods are workloads in the mode that a policy says, else in `kubernetes.default_mode`.",
        ),
        ("disabled", "Its pods are left alone. So are those of which nobody says anything."),
    ];
    let rows = values.map(|(value, text)| [code(MODE), on.to_owned(), code(value), text.to_owned()]);
    page.table(["label", "on", "value", "meaning"], rows);
}
