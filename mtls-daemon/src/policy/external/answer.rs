//! What a policy engine says, out of the body of its answer.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;

use crate::identity::leaf::show;

/// A decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The connection may be.
    pub allow: bool,
    /// How the engine calls what decided.
    pub rule: Option<Arc<str>>,
    /// Why, in its words.
    pub reason: Option<Arc<str>>,
}

/// Why a body is no decision.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    /// Not JSON, or not an object.
    #[error(
        "its answer is not a JSON object with the key `result` ({0}); check that the URL is one of OPA's Data API"
    )]
    NotJson(String),
    /// A result of another type.
    #[error("its `result` is {0}; let the rule be true or false, or an object with `allow`: true or false")]
    Type(&'static str),
    /// An object that does not say it, or in two ways.
    #[error(
        "its `result` says neither or both of true and false in `allow` (or `allowed`); let it have one of them"
    )]
    NoDecision,
    /// A name that is no text.
    #[error("`{0}` in its `result` is not text; let it be text, or leave it out")]
    NotText(&'static str),
}

/// <https://www.openpolicyagent.org/docs/rest-api#data-api>: an undefined decision has no `result`.
#[derive(Deserialize)]
struct Reply {
    #[serde(default)]
    result: Option<Value>,
}

impl Answer {
    /// Reads it. An undefined decision denies.
    ///
    /// # Errors
    /// `AnswerError`: whatever is not understood whole is no decision.
    pub fn read(body: &[u8]) -> Result<Self, AnswerError> {
        // serde takes a list for a structure as well.
        if body.iter().find(|byte| !byte.is_ascii_whitespace()) != Some(&b'{') {
            return Err(AnswerError::NotJson("it does not begin with {".to_owned()));
        }
        let reply: Reply =
            serde_json::from_slice(body).map_err(|error| AnswerError::NotJson(show(&error.to_string())))?;
        let plain = |allow| Self { allow, rule: None, reason: None };
        match reply.result {
            None => Ok(Self { rule: Some("undefined".into()), ..plain(false) }),
            Some(Value::Bool(allow)) => Ok(plain(allow)),
            Some(Value::Object(map)) => {
                let allow = match (map.get("allow"), map.get("allowed")) {
                    (Some(Value::Bool(allow)), None) | (None, Some(Value::Bool(allow))) => *allow,
                    (Some(Value::Bool(one)), Some(Value::Bool(other))) if one == other => *one,
                    _ => return Err(AnswerError::NoDecision),
                };
                let text = |key| match map.get(key) {
                    None | Some(Value::Null) => Ok(None),
                    Some(Value::String(text)) => Ok(Some(Arc::from(show(text)))),
                    Some(_) => Err(AnswerError::NotText(key)),
                };
                Ok(Self { allow, rule: text("rule")?, reason: text("reason")? })
            }
            Some(Value::Null) => Err(AnswerError::Type("null")),
            Some(Value::Number(_)) => Err(AnswerError::Type("a number")),
            Some(Value::String(_)) => Err(AnswerError::Type("text")),
            Some(Value::Array(_)) => Err(AnswerError::Type("a list")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(allow: bool, rule: Option<&str>, reason: Option<&str>) -> Answer {
        Answer { allow, rule: rule.map(Arc::from), reason: reason.map(Arc::from) }
    }

    #[test]
    fn a_decision_is_true_or_false_or_an_object_that_says_it() {
        for (body, want) in [
            (r#"{"result":true}"#, answer(true, None, None)),
            (r#"{"result":false,"decision_id":"7"}"#, answer(false, None, None)),
            (r#"{"result":{"allow":true}}"#, answer(true, None, None)),
            (r#"{"result":{"allowed":false,"headers":{"x":"y"}}}"#, answer(false, None, None)),
            (r#"{"result":{"allow":true,"allowed":true}}"#, answer(true, None, None)),
            (
                r#"{"result":{"allow":false,"rule":"night","reason":"not at night"}}"#,
                answer(false, Some("night"), Some("not at night")),
            ),
            (r#"{"result":{"allow":true,"rule":null}}"#, answer(true, None, None)),
        ] {
            assert_eq!(Answer::read(body.as_bytes()), Ok(want), "{body}");
        }
    }

    #[test]
    fn an_undefined_decision_denies() {
        for body in ["{}", r#"{"warning":{"code":"api_usage_warning"}}"#] {
            let answer = Answer::read(body.as_bytes()).unwrap();
            assert!(!answer.allow && answer.rule.as_deref() == Some("undefined"), "{body}: {answer:?}");
        }
    }

    #[test]
    fn what_is_not_understood_whole_is_no_decision() {
        for (body, part) in [
            ("", "not a JSON object"),
            ("true", "not a JSON object"),
            ("[]", "not a JSON object"),
            ("[true]", "not a JSON object"),
            ("{\"result\":true", "not a JSON object"),
            ("{\"result\":true}}", "not a JSON object"),
            ("<html>", "not a JSON object"),
            ("{\"result\":true,\"result\":false}", "not a JSON object"),
            (r#"{"result":"true"}"#, "is text"),
            (r#"{"result":1}"#, "is a number"),
            (r#"{"result":[true]}"#, "is a list"),
            (r#"{"result":{}}"#, "neither or both"),
            (r#"{"result":{"allow":"yes"}}"#, "neither or both"),
            (r#"{"result":{"allow":null}}"#, "neither or both"),
            (r#"{"result":{"allow":true,"allowed":false}}"#, "neither or both"),
            (r#"{"result":{"allow":true,"allowed":"no"}}"#, "neither or both"),
            (r#"{"result":{"allow":true,"rule":7}}"#, "`rule`"),
            (r#"{"result":{"allow":true,"reason":{}}}"#, "`reason`"),
        ] {
            let error = Answer::read(body.as_bytes()).expect_err(body).to_string();
            assert!(error.contains(part), "{body}: {error}");
        }
        let deep = format!("{{\"result\":{}true{}}}", "[".repeat(10_000), "]".repeat(10_000));
        assert!(matches!(Answer::read(deep.as_bytes()), Err(AnswerError::NotJson(_))));
    }

    #[test]
    fn foreign_text_is_bounded_and_without_control_characters() {
        let body = serde_json::json!({ "result": { "allow": false, "rule": "x".repeat(5_000), "reason": "a\u{1b}[31m\n" } });
        let answer = Answer::read(body.to_string().as_bytes()).unwrap();
        assert!(answer.rule.unwrap().chars().count() <= 257);
        assert_eq!(answer.reason.as_deref(), Some("a\\u{1b}[31m\\n"));
    }

    proptest::proptest! {
        #[test]
        fn no_body_makes_the_reader_panic(body in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
            let _ = Answer::read(&body);
        }
    }
}
