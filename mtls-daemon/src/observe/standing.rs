//! How a live connection stands that would not be let in any more.

use std::sync::{Mutex, PoisonError};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::Refusal;
use super::connection::RecordedReason;

/// A live connection that goes on though it would not be let in any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Overdue {
    /// When it is cut, if it has not ended, RFC 3339; null: it is kept until it ends by itself.
    #[serde(with = "time::serde::rfc3339::option")]
    #[schemars(with = "Option<String>")]
    pub until: Option<OffsetDateTime>,
    /// Why it would not be let in.
    pub reason: RecordedReason,
}

impl Overdue {
    /// In a few words: `draining until …: CODE` or `kept: CODE`.
    #[must_use]
    pub fn words(&self, date: impl Fn(OffsetDateTime) -> String) -> String {
        match self.until {
            Some(until) => format!("draining until {}: {}", date(until), self.reason.code),
            None => format!("kept: {}", self.reason.code),
        }
    }
}

/// The standing of connections that stand and fall together, shared by those who judge them and those who show them.
#[derive(Debug, Default)]
pub struct Standing(Mutex<Option<Overdue>>);

impl Standing {
    /// Nothing is wrong with them.
    pub fn clear(&self) {
        self.set(None);
    }

    /// They would not be let in any more; `until`: when they are cut.
    pub fn overdue(&self, refusal: &Refusal, until: Option<OffsetDateTime>) {
        self.set(Some(Overdue { until, reason: refusal.clone().into() }));
    }

    /// As it is now.
    #[must_use]
    pub fn now(&self) -> Option<Overdue> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, overdue: Option<Overdue>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = overdue;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::Reason;

    #[test]
    fn a_standing_is_told_in_words_and_survives_json() {
        let standing = Standing::default();
        assert_eq!(standing.now(), None);
        let refusal = Refusal::new(Reason::PolicyDefault, "default of strict");
        for (until, words) in [
            (None, "kept: policy_default"),
            (Some(OffsetDateTime::UNIX_EPOCH), "draining until 1970: policy_default"),
        ] {
            standing.overdue(&refusal, until);
            let overdue = standing.now().unwrap();
            assert_eq!(overdue.words(|date| date.year().to_string()), words);
            let json = serde_json::to_string(&overdue).unwrap();
            assert_eq!(serde_json::from_str::<Overdue>(&json).unwrap(), overdue);
        }
        standing.clear();
        assert_eq!(standing.now(), None);
    }
}
