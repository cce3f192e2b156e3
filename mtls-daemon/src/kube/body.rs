//! An answer whose body is still to come, with the connection that it comes over.

use http_body_util::BodyExt;
use hyper::Response;
use hyper::body::{Bytes, Incoming};

use super::connect::Link;
use super::error::{KubeError, Subject};

/// An answer, read piece by piece.
#[derive(Debug)]
pub(super) struct Body {
    pub subject: Subject,
    pub response: Response<Incoming>,
    pub link: Link,
}

impl Body {
    /// The next bytes; `None`: the end, as the server meant it.
    pub async fn piece(&mut self) -> Result<Option<Bytes>, KubeError> {
        while let Some(frame) = self.response.body_mut().frame().await {
            let frame = frame.map_err(|error| broken(self.subject, &error))?;
            // Trailers are no data.
            if let Ok(data) = frame.into_data() {
                return Ok(Some(data));
            }
        }
        Ok(None)
    }

    /// All bytes, and the connection, which can be used again.
    pub async fn whole(mut self, limit: usize) -> Result<(Vec<u8>, Link), KubeError> {
        let mut bytes = Vec::new();
        while let Some(piece) = self.piece().await? {
            if bytes.len().saturating_add(piece.len()) > limit {
                return Err(KubeError::TooLarge { subject: self.subject, limit });
            }
            bytes.extend_from_slice(&piece);
        }
        Ok((bytes, self.link))
    }

    /// The first bytes, whatever becomes of the others.
    pub async fn beginning(mut self, limit: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        while let Ok(Some(piece)) = self.piece().await {
            let room = limit.saturating_sub(bytes.len());
            bytes.extend(piece.into_iter().take(room));
            if bytes.len() >= limit {
                break;
            }
        }
        bytes
    }
}

/// The error of a connection that ended in the middle, with its causes, which hyper tells apart.
pub(super) fn broken(subject: Subject, error: &hyper::Error) -> KubeError {
    let mut reason = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        reason = format!("{reason}: {cause}");
        source = cause.source();
    }
    KubeError::Broken { subject, reason }
}
