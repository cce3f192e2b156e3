//! What a status of HTTP means.

use std::time::Duration;

use hyper::HeaderMap;

use super::error::{KubeError, Subject};
use super::json::Status;
use crate::identity::leaf::show;

/// The error of an answer that is none of success. `body`: what came with it, perhaps cut.
pub(super) fn refused(
    subject: Subject,
    code: u16,
    headers: &HeaderMap,
    body: &[u8],
    token: &std::path::Path,
) -> KubeError {
    let message = match serde_json::from_slice::<Status>(body) {
        Ok(status) if !status.message.is_empty() => show(&status.message),
        _ => show(String::from_utf8_lossy(body).trim()),
    };
    let message = if message.is_empty() { "it gave no reason".to_owned() } else { message };
    match code {
        401 => KubeError::Unauthorized { subject, token: token.to_owned(), message },
        _ => of_status(subject, code, message, retry_after(headers)),
    }
}

/// The error of a `Status` object, in an answer or in a watch.
pub(super) fn of_status(
    subject: Subject,
    code: u16,
    message: String,
    retry_after: Option<Duration>,
) -> KubeError {
    match code {
        403 => KubeError::Forbidden { subject, message },
        404 => KubeError::NotFound { subject, message },
        409 => KubeError::Conflict { subject, message },
        410 => KubeError::Gone { subject, message },
        code => KubeError::Status { subject, code, message, retry_after },
    }
}

/// In whole seconds; the other form, a date, the API server does not use.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    headers.get(hyper::header::RETRY_AFTER)?.to_str().ok()?.parse().ok().map(Duration::from_secs)
}
