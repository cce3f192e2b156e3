//! The call.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use zeroize::Zeroizing;

use super::answer::{Answer, AnswerError};
use crate::config::ExternalPolicy;
use crate::fetch::{FetchError, FetchSettings, KeptFetch};
use crate::identity::files::{self, FilesError};
use crate::identity::leaf::show;

/// Most bytes of an answer.
pub(super) const MAX_ANSWER: u64 = 64 * 1024;
/// Largest token, in bytes.
const MAX_TOKEN: usize = 16 * 1024;

/// Why there is no decision.
#[derive(Debug, thiserror::Error)]
pub(super) enum AskError {
    /// No answer.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// The token cannot be read.
    #[error(transparent)]
    Token(#[from] FilesError),
    /// The token is none.
    #[error("the token in {} {reason}; write one line of printable ASCII", path.display())]
    NotAToken { path: PathBuf, reason: &'static str },
    /// It is not what it should be.
    #[error("{url} answered with HTTP status {status}{said}; {mend}")]
    Status { url: String, status: u16, said: String, mend: &'static str },
    /// It answered, and that is no decision.
    #[error("{url}: {source}")]
    Answer { url: String, source: AnswerError },
}

/// Whom to ask.
#[derive(Debug)]
pub(super) struct Client {
    url: String,
    fetch: KeptFetch,
    token_file: Option<PathBuf>,
}

impl Client {
    pub fn new(settings: &ExternalPolicy) -> Self {
        let fetch = FetchSettings {
            ca_file: settings.ca_file.clone(),
            timeout: settings.timeout,
            max_bytes: MAX_ANSWER,
        };
        Self {
            url: settings.url.clone(),
            fetch: KeptFetch::new(fetch, super::MAX_CALLS),
            token_file: settings.token_file.clone(),
        }
    }

    /// Asks. Blocks, no longer than the timeout of the configuration.
    pub fn ask(&self, document: &[u8]) -> Result<Answer, AskError> {
        let token = self.token_file.as_deref().map(token).transpose()?;
        let mut headers = vec![("Content-Type", "application/json"), ("Accept", "application/json")];
        headers.extend(token.as_ref().map(|token| ("Authorization", token.as_str())));
        let answer = self.fetch.post(&self.url, &headers, document)?;
        let url = || self.url.clone();
        if answer.status != 200 {
            let (status, said) = (answer.status, said(&answer.body));
            return Err(AskError::Status { url: url(), status, said, mend: mend(status) });
        }
        Answer::read(&answer.body).map_err(|source| AskError::Answer { url: url(), source })
    }
}

/// The header's value. Read each time: whoever writes the file renews it.
fn token(path: &Path) -> Result<Zeroizing<String>, AskError> {
    let refused = |reason| AskError::NotAToken { path: path.to_owned(), reason };
    let content = files::read("token", path, MAX_TOKEN)?;
    let text = std::str::from_utf8(&content).map_err(|_| refused("is not text"))?.trim();
    match () {
        () if text.is_empty() => Err(refused("is empty")),
        () if !text.bytes().all(|byte| byte.is_ascii_graphic()) => {
            Err(refused("has white space or a character in it that a token cannot have"))
        }
        () => Ok(Zeroizing::new(format!("Bearer {text}"))),
    }
}

/// What an error of OPA's says: `{"code": …, "message": …}`.
fn said(body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Refused {
        message: String,
    }
    let refused = serde_json::from_slice::<Refused>(body);
    refused.map_or_else(|_| String::new(), |refused| format!(" ({})", show(&refused.message)))
}

fn mend(status: u16) -> &'static str {
    match status {
        301..=308 => "redirects are not followed: write the address that it names into `url`",
        401 | 403 => "check `token_file`, and what the policy engine lets it ask",
        404 => "check the path in `url`: /v1/data/PACKAGE/RULE",
        _ => "look at the policy engine's log",
    }
}
