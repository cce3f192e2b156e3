//! Label and field selectors, as far as kubectl and mtlsd use them.

use serde_json::Value;

use crate::answer::Failure;

/// What is asked of an object.
#[derive(Debug, Clone, Default)]
pub(crate) struct Selector(Vec<Term>);

#[derive(Debug, Clone)]
enum Term {
    Field(String, String, bool),
    Label(String, String, bool),
    HasLabel(String, bool),
}

impl Selector {
    /// Reads `fieldSelector` and `labelSelector`.
    pub fn parse(fields: &str, labels: &str) -> Result<Self, Failure> {
        let mut terms = Vec::new();
        for term in fields.split(',').filter(|term| !term.is_empty()) {
            let (name, value, equal) =
                equation(term).ok_or_else(|| Failure::bad(&format!("invalid field selector {term:?}")))?;
            terms.push(Term::Field(name, value, equal));
        }
        for term in labels.split(',').filter(|term| !term.is_empty()) {
            terms.push(match (equation(term), term.strip_prefix('!')) {
                (Some((name, value, equal)), _) => Term::Label(name, value, equal),
                (None, Some(name)) => Term::HasLabel(name.to_owned(), false),
                (None, None) if term.contains(['(', ' ']) => {
                    return Err(Failure::bad("the double knows no sets in label selectors"));
                }
                (None, None) => Term::HasLabel(term.to_owned(), true),
            });
        }
        Ok(Self(terms))
    }

    pub fn takes(&self, object: &Value) -> bool {
        self.0.iter().all(|term| match term {
            Term::Field(path, value, equal) => {
                let found = path.split('.').fold(object, |object, name| &object[name]);
                (found.as_str().unwrap_or_default() == value) == *equal
            }
            Term::Label(name, value, equal) => {
                (object["metadata"]["labels"][name].as_str() == Some(value)) == *equal
            }
            Term::HasLabel(name, wanted) => object["metadata"]["labels"][name].is_string() == *wanted,
        })
    }
}

fn equation(term: &str) -> Option<(String, String, bool)> {
    let parts = |sign| term.split_once(sign).map(|(name, value)| (name.to_owned(), value.to_owned()));
    let unequal = parts("!=").map(|(name, value)| (name, value, false));
    let equal = || parts("==").or_else(|| parts("=")).map(|(name, value)| (name, value, true));
    unequal.or_else(equal)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn fields_and_labels_select() {
        let pod = json!({
            "metadata": { "name": "a", "labels": { "app": "web" } },
            "spec": { "nodeName": "n1" }
        });
        for (fields, labels, takes) in [
            ("", "", true),
            ("spec.nodeName=n1", "", true),
            ("spec.nodeName=n2", "", false),
            ("spec.nodeName!=n2,metadata.name=a", "app", true),
            ("", "app=web", true),
            ("", "app==api", false),
            ("", "!app", false),
            ("", "!tier,app!=api", true),
        ] {
            assert_eq!(Selector::parse(fields, labels).unwrap().takes(&pod), takes, "{fields} {labels}");
        }
        assert!(Selector::parse("nothing", "").is_err() && Selector::parse("", "a in (b)").is_err());
    }
}
