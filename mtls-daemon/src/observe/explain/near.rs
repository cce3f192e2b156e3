//! Rules that nearly decided otherwise, as an explanation tells them.

use serde::{Deserialize, Serialize};

/// How near a rule came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Closeness {
    /// By the rules of now it matches.
    Matches,
    /// One question of it is answered with no.
    Nearly,
    /// Whether it matches depends on something that is not known.
    Perhaps,
}

/// What the rules that were looked for say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Says {
    /// Allow: the connection was refused because none matched.
    #[default]
    Allow,
    /// Deny: it was allowed, or another one denied it.
    Deny,
}

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NearMiss {
    /// Its name.
    pub rule: String,
    /// How near it came.
    pub closeness: Closeness,
    /// What kept it from matching, or what is not known; empty where it matches.
    pub why: String,
}

/// The rules that nearly decided otherwise, and how many were looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NearMisses {
    /// What they say.
    pub says: Says,
    /// In the order of the file.
    pub rules: Vec<NearMiss>,
    /// Rules that were looked at.
    pub looked_at: usize,
    /// Rules that there are.
    pub of: usize,
    /// The configuration was loaded again since the connection began; this is its generation now.
    pub changed_since: Option<u64>,
}

impl NearMiss {
    /// The rule in a sentence.
    #[must_use]
    pub fn sentence(&self, says: Says) -> String {
        let verb = match says {
            Says::Allow => "allows",
            Says::Deny => "denies",
        };
        let (rule, why) = (&self.rule, &self.why);
        match self.closeness {
            Closeness::Matches => format!("Rule {rule} {verb} it by the rules of now."),
            Closeness::Nearly => format!("Rule {rule} nearly {verb} it, but {why}."),
            Closeness::Perhaps => format!("Rule {rule} perhaps {verb} it: {why} is not known here."),
        }
    }
}

impl NearMisses {
    /// In sentences.
    #[must_use]
    pub fn sentences(&self) -> Vec<String> {
        let mut sentences = Vec::new();
        if let Some(generation) = self.changed_since {
            sentences.push(format!(
                "The configuration was loaded again since (it is generation {generation} now): what follows is by the rules of now."
            ));
        }
        sentences.extend(self.rules.iter().map(|rule| rule.sentence(self.says)));
        if self.rules.is_empty() {
            sentences.push(match self.says {
                Says::Deny => "No other rule denies it or nearly does.".to_owned(),
                Says::Allow => "No rule nearly allows it.".to_owned(),
            });
        }
        if self.looked_at < self.of {
            sentences.push(format!("Only the first {} of {} rules were looked at.", self.looked_at, self.of));
        }
        sentences
    }
}
