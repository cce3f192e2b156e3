//! Vault's HTTP API as far as it is needed: requests, and what comes back as typed values or a reason.
//! <https://developer.hashicorp.com/vault/api-docs>; OpenBao's is the same.

use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value};
use zeroize::Zeroizing;

use super::error::VaultError;
use super::secret::Secret;
use crate::fetch::{Answer, Fetch, FetchError};
use crate::identity::leaf::show;

/// Where a token that is in no file is sent, and what else every request has.
#[derive(Debug)]
pub(super) struct Api {
    /// `https://vault:8200`, without a slash at its end.
    pub(super) address: String,
    /// For the header `X-Vault-Namespace`.
    pub(super) namespace: Option<String>,
    /// Bounds.
    pub(super) fetch: Fetch,
}

/// A good answer (HTTP 200) and whom it is from.
pub(super) struct Reply {
    pub(super) url: String,
    status: u16,
    content_type: Option<String>,
    /// May hold a token.
    pub(super) body: Zeroizing<Vec<u8>>,
}

/// What Vault says about a token that it has just given or renewed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Grant {
    /// `None` for a look-up.
    pub(super) token: Option<Secret>,
    /// What is left of its life; zero: it has no end.
    pub(super) ttl: Duration,
    pub(super) renewable: bool,
}

impl Api {
    pub(super) fn url(&self, path: &str) -> String {
        format!("{}/v1/{path}", self.address)
    }

    /// GET; `token` where one is needed.
    pub(super) fn get(&self, path: &str, token: Option<&Secret>) -> Result<Reply, VaultError> {
        self.ask(path, token, "read", |url, headers| self.fetch.get(url, headers))
    }

    /// POST with a JSON body.
    pub(super) fn post(&self, path: &str, token: Option<&Secret>, body: &[u8]) -> Result<Reply, VaultError> {
        self.ask(path, token, "update", |url, headers| self.fetch.post(url, headers, body))
    }

    fn ask(
        &self,
        path: &str,
        token: Option<&Secret>,
        capability: &'static str,
        send: impl FnOnce(&str, &[(&str, &str)]) -> Result<Answer, FetchError>,
    ) -> Result<Reply, VaultError> {
        let url = self.url(path);
        // Vault refuses requests without it where an agent is in between, against being tricked into asking.
        let mut headers = vec![("X-Vault-Request", "true"), ("Content-Type", "application/json")];
        headers.extend(token.map(|token| ("X-Vault-Token", token.expose())));
        headers.extend(self.namespace.as_deref().map(|namespace| ("X-Vault-Namespace", namespace)));
        let Answer { status, content_type, body } = send(&url, &headers)?;
        let reply = Reply { url, status, content_type, body: Zeroizing::new(body) };
        if status == 200 { Ok(reply) } else { Err(refusal(reply, path, capability)) }
    }
}

/// What a status other than 200 means.
fn refusal(reply: Reply, path: &str, capability: &'static str) -> VaultError {
    let status = reply.status;
    // Before the body: these have none, or somebody else's.
    if matches!(status, 301..=308 | 429 | 472 | 473) {
        return VaultError::NotActive { url: reply.url, status };
    }
    let Some(said) = errors(&reply.body) else { return reply.not_json(None) };
    let url = reply.url;
    match status {
        503 if said.contains("sealed") => VaultError::Sealed { url },
        403 => {
            let said = if said.contains("permission denied") { String::new() } else { said };
            VaultError::Denied { url, path: path.to_owned(), capability, said }
        }
        404 => VaultError::NotFound { url, said },
        _ => VaultError::Refused { url, status, said },
    }
}

/// The texts under `errors`, safe to show; `None`: it is not that kind of answer.
fn errors(body: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Errors {
        errors: Vec<String>,
    }
    let Errors { errors } = serde_json::from_slice(body).ok()?;
    let words: Vec<_> = errors.iter().flat_map(|text| text.split_whitespace()).collect();
    Some(show(&words.join(" ")))
}

impl Reply {
    fn not_json(self, error: Option<&serde_json::Error>) -> VaultError {
        let found = match (self.content_type.as_deref(), error) {
            (Some("application/json") | None, Some(error)) => {
                format!("broken at line {}, column {}", error.line(), error.column())
            }
            (Some(media_type), _) => show(media_type),
            (None, None) => "something unnamed".to_owned(),
        };
        VaultError::NotJson { url: self.url, status: self.status, found }
    }

    /// The object `data`. For answers without secrets.
    pub(super) fn data(self) -> Result<Data, VaultError> {
        let mut answer: Map<String, Value> = match serde_json::from_slice(&self.body) {
            Ok(answer) => answer,
            Err(error) => return Err(self.not_json(Some(&error))),
        };
        match answer.remove("data") {
            Some(Value::Object(data)) => Ok(Data { url: self.url, data }),
            other => Err(wrong(&self.url, "data", other.as_ref(), "an object")),
        }
    }

    /// The object `auth`.
    pub(super) fn auth(self) -> Result<Grant, VaultError> {
        #[derive(Deserialize)]
        struct Login {
            auth: Option<Auth>,
        }
        #[derive(Deserialize)]
        struct Auth {
            client_token: Secret,
            lease_duration: u64,
            renewable: bool,
        }
        let Login { auth } = match serde_json::from_slice(&self.body) {
            Ok(login) => login,
            Err(error) if error.is_data() => {
                // Its text names the field and the kind of what is there, and no text of the answer.
                return Err(VaultError::Field { url: self.url, field: "auth", reason: reason(&error) });
            }
            Err(error) => return Err(self.not_json(Some(&error))),
        };
        let auth = auth.ok_or_else(|| wrong(&self.url, "auth", None, "an object"))?;
        let ttl = Duration::from_secs(auth.lease_duration);
        Ok(Grant { token: Some(auth.client_token), ttl, renewable: auth.renewable })
    }

    /// What a token says about itself.
    pub(super) fn lookup(self) -> Result<Grant, VaultError> {
        // Holds the token itself, as `id`, and would leave it in a map that nobody wipes.
        #[derive(Deserialize)]
        struct Lookup {
            data: Token,
        }
        #[derive(Deserialize)]
        struct Token {
            ttl: u64,
            // A root token has none.
            #[serde(default)]
            renewable: bool,
        }
        match serde_json::from_slice(&self.body) {
            Ok(Lookup { data: Token { ttl, renewable } }) => {
                Ok(Grant { token: None, ttl: Duration::from_secs(ttl), renewable })
            }
            Err(error) if error.is_data() => {
                Err(VaultError::Field { url: self.url, field: "data", reason: reason(&error) })
            }
            Err(error) => Err(self.not_json(Some(&error))),
        }
    }
}

/// Why serde did not take it, without what was there: that may be a token in the wrong place.
fn reason(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let quoted = text.contains("invalid type") || text.contains("invalid value");
    let expected = text.find("expected ").and_then(|start| text.get(start..));
    match expected.filter(|_| quoted) {
        Some(expected) => format!("has a part of another kind: {}", show(expected)),
        None => format!("cannot be read: {}", show(&text)),
    }
}

/// The object `data` of an answer.
pub(super) struct Data {
    pub(super) url: String,
    data: Map<String, Value>,
}

impl Data {
    /// A text that must be there. `field` is `data.` and its name.
    pub(super) fn text(&self, field: &'static str) -> Result<&str, VaultError> {
        let found = self.found(field);
        found.and_then(Value::as_str).ok_or_else(|| wrong(&self.url, field, found, "text"))
    }

    /// Texts; not there, or null, is none.
    pub(super) fn texts(&self, field: &'static str) -> Result<Vec<&str>, VaultError> {
        let refused = |found| wrong(&self.url, field, Some(found), "a list of texts");
        match self.found(field) {
            None | Some(Value::Null) => Ok(Vec::new()),
            Some(Value::Array(list)) => {
                list.iter().map(|value| value.as_str().ok_or_else(|| refused(value))).collect()
            }
            Some(other) => Err(refused(other)),
        }
    }

    pub(super) fn found(&self, field: &'static str) -> Option<&Value> {
        self.data.get(field.trim_start_matches("data."))
    }
}

fn wrong(url: &str, field: &'static str, found: Option<&Value>, wanted: &str) -> VaultError {
    let reason = match found {
        None => "is missing".to_owned(),
        Some(found) => {
            let kind = match found {
                Value::Null => "null",
                Value::Bool(_) => "a truth value",
                Value::Number(_) => "a number",
                Value::String(_) => "text",
                Value::Array(_) => "a list",
                Value::Object(_) => "an object",
            };
            format!("holds {kind} where {wanted} is expected")
        }
    };
    VaultError::Field { url: url.to_owned(), field, reason }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ANSWERS: [&str; 3] = [
        r#"{"data":{"certificate":"x","ca_chain":["y"],"issuing_ca":"z","ttl":7,"renewable":true}}"#,
        r#"{"auth":{"client_token":"hvs.t","lease_duration":3600,"renewable":true},"data":null}"#,
        r#"{"errors":["1 error occurred:\n\t* permission denied\n\n"]}"#,
    ];

    fn answer() -> impl Strategy<Value = Vec<u8>> {
        let spoilt =
            (0..ANSWERS.len(), prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4));
        let spoilt = spoilt.prop_map(|(which, bytes)| {
            let mut answer = ANSWERS[which].as_bytes().to_vec();
            for (index, byte) in bytes {
                let index = index.index(answer.len());
                answer[index] = byte;
            }
            answer
        });
        prop_oneof![spoilt, prop::collection::vec(any::<u8>(), 0..200)]
    }

    proptest! {
        #[test]
        fn no_answer_costs_more_than_a_short_message(body in answer(), status in 100..600_u16, json in any::<bool>()) {
            let reply = || Reply {
                url: "http://vault/v1/x".into(),
                status,
                content_type: json.then(|| "application/json".into()),
                body: Zeroizing::new(body.clone()),
            };
            let mut errors = vec![refusal(reply(), "x", "update")];
            errors.extend(reply().auth().err());
            errors.extend(reply().lookup().err());
            match reply().data() {
                Ok(data) => {
                    errors.extend(data.text("data.certificate").err());
                    errors.extend(data.texts("data.ca_chain").err());
                }
                Err(error) => errors.push(error),
            }
            for error in errors {
                let text = error.to_string();
                prop_assert!(text.len() < 4096 && !text.chars().any(char::is_control), "{text}");
            }
        }
    }
}
