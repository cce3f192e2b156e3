//! The keys of a document, out of its JSON schema.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::page::plain;

/// More keys than this are told once, and then referred to.
const SMALL: usize = 4;

/// A key and what stands there.
#[derive(Debug)]
pub(super) struct Key {
    /// From the top of the document: `workloads[].name`.
    pub path: String,
    pub value: String,
    pub required: bool,
    pub meaning: String,
}

/// Reads a schema.
pub(super) struct Schema<'a> {
    definitions: &'a Map<String, Value>,
    /// Where the keys of a type are told.
    told: BTreeMap<&'a str, String>,
    /// Types and their keys that were read, for the test that nothing is left out.
    pub read: BTreeSet<(&'a str, &'a str)>,
}

/// What lies below a key.
struct Below<'a> {
    /// The type.
    name: &'a str,
    /// `[]` where it is a list of them.
    suffix: &'static str,
    node: &'a Value,
}

impl<'a> Schema<'a> {
    pub fn new(root: &'a Value, nothing: &'a Map<String, Value>) -> Self {
        let definitions = root.get("$defs").and_then(Value::as_object).unwrap_or(nothing);
        Self { definitions, told: BTreeMap::new(), read: BTreeSet::new() }
    }

    /// The keys of an object and of what lies below it. `of`: its type, `path`: where it stands.
    pub fn keys(&mut self, of: &'a str, node: &'a Value, path: &str) -> Vec<Key> {
        let mut keys = Vec::new();
        let required: Vec<_> = list(node, "required").filter_map(Value::as_str).collect();
        for (name, value) in node.get("properties").and_then(Value::as_object).into_iter().flatten() {
            self.read.insert((of, name));
            let here = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            keys.extend(self.key(here, value, required.contains(&name.as_str())));
        }
        keys
    }

    fn key(&mut self, path: String, node: &'a Value, required: bool) -> Vec<Key> {
        let mut meaning = description(node);
        for (value, text) in self.choices(node) {
            meaning.push_str(&format!(" `{value}`: {text}"));
        }
        let mut below = self.variants(node, &path);
        if let Some(Below { name, suffix, node }) = self.below(node) {
            let place = format!("{path}{suffix}");
            let large = self.properties(node) > SMALL;
            match self.told.get(name).filter(|told| large || place.starts_with(told.as_str())) {
                Some(told) => meaning.push_str(&format!(" The keys are those of `{told}`.")),
                None => {
                    self.told.insert(name, place.clone());
                    below.extend(self.keys(name, node, &place));
                }
            }
        }
        let mut keys = vec![Key { path, value: self.value(node), required, meaning }];
        keys.append(&mut below);
        keys
    }

    /// The keys of the mappings among which one may choose.
    fn variants(&mut self, node: &'a Value, path: &str) -> Vec<Key> {
        let (of, node) = self.resolve(node);
        let mut keys = Vec::new();
        for variant in list(node, "oneOf") {
            for (name, value) in variant.get("properties").and_then(Value::as_object).into_iter().flatten() {
                self.read.insert((of, name));
                keys.push(Key {
                    path: format!("{path}.{name}"),
                    value: self.value(value),
                    required: false,
                    meaning: description(if value.get("description").is_some() { value } else { variant }),
                });
            }
        }
        keys
    }

    /// The words among which one may choose, with what each means.
    fn choices(&self, node: &'a Value) -> Vec<(String, String)> {
        let (_, node) = self.resolve(node);
        if let Some(item) = node.get("items").or_else(|| node.get("additionalProperties")) {
            return self.choices(item);
        }
        let one = |choice: &'a Value| match choice.get("const").and_then(Value::as_str) {
            Some(word) if choice.get("description").is_some() => vec![(word.to_owned(), description(choice))],
            Some(_) => Vec::new(),
            None => self.choices(choice),
        };
        list(node, "oneOf").chain(list(node, "anyOf").filter(|of| !is_null(of))).flat_map(one).collect()
    }

    fn below(&self, node: &'a Value) -> Option<Below<'a>> {
        let (name, node) = self.resolve(node);
        if node.get("properties").is_some() {
            return Some(Below { name, suffix: "", node });
        }
        let items = node.get("items").map(|items| (items, "[]"));
        let any = list(node, "anyOf").find(|of| !is_null(of)).map(|of| (of, ""));
        let (inner, suffix) = items.or(any)?;
        let below = self.below(inner)?;
        Some(Below { suffix: if suffix.is_empty() { below.suffix } else { suffix }, ..below })
    }

    fn properties(&self, node: &Value) -> usize {
        node.get("properties").and_then(Value::as_object).map_or(0, Map::len)
    }

    /// What stands at a key, in a few words.
    fn value(&self, node: &'a Value) -> String {
        let (_, node) = self.resolve(node);
        if let Some(word) = node.get("const") {
            return word.as_str().map_or_else(|| word.to_string(), |word| format!("`{word}`"));
        }
        let choices: Vec<_> = ["oneOf", "anyOf"]
            .into_iter()
            .flat_map(|kind| list(node, kind))
            .map(|choice| self.value(choice))
            .collect();
        if !choices.is_empty() {
            return choices.join(" or ");
        }
        let kinds = match node.get("type") {
            Some(Value::String(kind)) => vec![kind.as_str()],
            Some(kinds) => kinds.as_array().into_iter().flatten().filter_map(Value::as_str).collect(),
            None => Vec::new(),
        };
        kinds.into_iter().map(|kind| self.kind(kind, node)).collect::<Vec<_>>().join(" or ")
    }

    fn kind(&self, kind: &str, node: &'a Value) -> String {
        let inner = |key| node.get(key).map(|inner| self.value(inner));
        match kind {
            "string" => "text".to_owned(),
            "boolean" => "true or false".to_owned(),
            "integer" | "number" => match (node.get("minimum"), node.get("maximum")) {
                (Some(least), Some(most)) => format!("number, {least} to {most}"),
                _ => "number".to_owned(),
            },
            "array" => format!("list of {}", inner("items").unwrap_or_default()),
            "object" => match inner("additionalProperties").filter(|inner| !inner.is_empty()) {
                Some(inner) => format!("mapping to {inner}"),
                None => "mapping".to_owned(),
            },
            other => other.to_owned(),
        }
    }

    fn resolve(&self, node: &'a Value) -> (&'a str, &'a Value) {
        let name = node.get("$ref").and_then(Value::as_str).and_then(|to| to.strip_prefix("#/$defs/"));
        let Some(name) = name else { return ("", node) };
        self.definitions.get(name).map_or(("", node), |node| (name, node))
    }
}

fn list<'a>(node: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    node.get(key).and_then(Value::as_array).into_iter().flatten()
}

fn is_null(node: &Value) -> bool {
    node.get("type").and_then(Value::as_str) == Some("null")
}

fn description(node: &Value) -> String {
    plain(node.get("description").and_then(Value::as_str).unwrap_or_default())
}
