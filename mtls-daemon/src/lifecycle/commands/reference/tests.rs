//! The pages against the code, and that nothing in them is without a text.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Map, Value};

use super::super::tests::Files;
use super::keys::Schema;
use super::page::plain;
use super::*;
use crate::config;
use crate::observe::metrics::Metrics;

/// After a change: `MTLSD_BLESS=1 cargo test -p mtls-daemon published_reference`.
#[test]
fn the_published_reference_is_up_to_date() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reference");
    if std::env::var_os("MTLSD_BLESS").is_some() {
        write(&directory).unwrap();
    }
    for (name, page) in PAGES {
        let published = std::fs::read_to_string(directory.join(name)).unwrap_or_default();
        let same = published == page().unwrap();
        assert!(
            same,
            "docs/reference/{name} is old; run: MTLSD_BLESS=1 cargo test -p mtls-daemon published_reference"
        );
    }
    let files = std::fs::read_dir(&directory).unwrap().map(|file| file.unwrap().file_name());
    let files: BTreeSet<_> = files.map(|name| name.into_string().unwrap()).collect();
    assert_eq!(files, PAGES.iter().map(|(name, _)| (*name).to_owned()).collect());
}

#[test]
fn the_command_writes_every_page_and_names_a_directory_that_cannot_be() {
    let files = Files::new();
    let directory = files.path("docs/reference");
    write(&directory).unwrap();
    for (name, page) in PAGES {
        assert_eq!(std::fs::read_to_string(directory.join(name)).unwrap(), page().unwrap(), "{name}");
    }
    let error = write(Path::new("/proc/mtlsd")).unwrap_err().to_string();
    assert!(error.contains("/proc/mtlsd") && error.contains("choose another directory"), "{error}");
}

/// Keys of every type that the schema has, and of the document itself.
fn of_schema(root: &Value) -> BTreeSet<(&str, &str)> {
    let mut all = BTreeSet::new();
    let types = root["$defs"].as_object().unwrap().iter().map(|(name, node)| (name.as_str(), node));
    for (name, node) in types.chain([("", root)]) {
        let variants = node["oneOf"].as_array().into_iter().flatten();
        for node in variants.chain([node]) {
            let keys = node["properties"].as_object().into_iter().flatten();
            all.extend(keys.map(|(key, _)| (name, key.as_str())));
        }
    }
    all
}

#[test]
fn every_key_of_the_schema_is_there_and_has_a_text() {
    let (root, nothing) = (config::schema(), Map::new());
    let mut schema = Schema::new(&root, &nothing);
    let parts = configuration::parts(&mut schema, &root);
    assert_eq!(schema.read, of_schema(&root));
    let keys: Vec<_> = parts.iter().flat_map(|part| &part.keys).collect();
    for key in &keys {
        assert!(!key.meaning.is_empty(), "{} has no doc comment", key.path);
        assert!(!key.value.is_empty(), "{}: what may stand there?", key.path);
    }
    for path in ["trust_domain", "workloads[].select.unit", "outbound_policy[].to[].cidrs", "metrics.listen"]
    {
        assert!(keys.iter().any(|key| key.path == path), "{path}");
    }
    let mode = keys.iter().find(|key| key.path == "workloads[].mode").unwrap();
    assert!(mode.value.contains("`permissive`") && mode.meaning.contains("`permissive`: "), "{mode:?}");
    // A type in itself is not told for ever.
    for path in ["outbound_policy[].to[].not", "policy[].from"] {
        let again = keys.iter().find(|key| key.path == path).unwrap();
        assert!(again.meaning.contains("those of `outbound_policy[].to[]`"), "{again:?}");
    }
}

#[test]
fn every_field_of_a_record_has_a_text() {
    for key in access_log::keys() {
        assert!(!key.meaning.is_empty() && !key.value.is_empty(), "{key:?}");
    }
}

/// `key="value"` of every line.
fn pairs(text: &str) -> BTreeSet<(String, String)> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let labels = lines.filter_map(|line| Some(line.split_once('{')?.1.rsplit_once("\"}")?.0));
    let pairs = labels.flat_map(|labels| labels.split("\","));
    pairs.filter_map(|pair| pair.split_once("=\"")).map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
}

#[test]
fn every_metric_and_label_and_value_has_a_text() {
    let families = metrics::families().unwrap();
    for (name, family) in &families {
        assert!(family.help.len() > 10, "{name}: {family:?}");
    }
    let labels = metrics::labels();
    let told: BTreeSet<_> = labels.iter().map(|label| label.key.to_owned()).collect();
    let used: BTreeSet<_> = families.into_values().flat_map(|family| family.labels).collect();
    assert_eq!(told, used);
    for label in &labels {
        assert!(label.meaning.ends_with('.'), "{}", label.key);
        assert!(label.values.iter().all(|(_, meaning)| !meaning.is_empty()), "{}", label.key);
    }
    for (key, value) in pairs(&Metrics::example().encode().unwrap()) {
        let label = labels.iter().find(|label| label.key == key);
        let Some(label) = label.filter(|label| !label.values.is_empty()) else { continue };
        assert!(label.values.iter().any(|(known, _)| *known == value), "{key}={value} is not told");
    }
}

#[test]
fn every_command_and_argument_has_a_text() {
    let whole = commands::whole();
    let all = [false, true].map(|hidden| commands::below(&whole, "mtlsd", hidden));
    assert!(all[0].iter().any(|(name, _)| name == "mtlsd ca rotate"), "{all:?}");
    assert!(all[1].iter().any(|(name, _)| name == "mtlsd reference"), "{all:?}");
    for (name, command) in all.iter().flatten() {
        assert!(!commands::about(command).is_empty(), "{name}");
        for argument in commands::arguments(command) {
            assert!(!commands::help(argument).is_empty(), "{name} {}", argument.get_id());
        }
    }
}

#[test]
fn a_doc_comment_becomes_one_line_without_links_into_the_code() {
    assert_eq!(plain("after [`Lease::drain`],\nor [`x`] [not a link]"), "after `drain`, or `x` [not a link]");
    assert_eq!(plain("an open [`end"), "an open [`end");
}
