//! Bodies: whole ones, and such that come in pieces.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::{Body, Bytes, Frame};
use hyper::{Response, StatusCode};
use serde_json::Value;
use tokio::sync::mpsc;

use crate::answer::Failure;

/// The connection ends here, in the middle.
#[derive(Debug)]
pub(crate) struct Broken;

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the double breaks the connection on command")
    }
}

impl std::error::Error for Broken {}

/// A piece of a body.
pub(crate) type Piece = Result<Bytes, Broken>;

/// The pieces of a body, as they come.
pub(crate) struct Pieces(mpsc::Receiver<Piece>);

impl Body for Pieces {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        self.0.poll_recv(context).map(|piece| piece.map(|piece| piece.map(Frame::data)))
    }
}

/// A body, and where its pieces go.
pub(crate) fn channel() -> (mpsc::Sender<Piece>, Pieces) {
    let (sender, receiver) = mpsc::channel(16);
    (sender, Pieces(receiver))
}

/// How a whole body is sent.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Manner {
    Whole,
    Trickle(Duration),
    Half,
}

/// An answer with a body that is there already.
pub(crate) fn whole(code: u16, text: String, manner: Manner) -> Response<Pieces> {
    let (sender, pieces) = channel();
    let body = Bytes::from(text);
    tokio::spawn(async move {
        match manner {
            Manner::Whole => drop(sender.send(Ok(body)).await),
            Manner::Half => {
                let _ = sender.send(Ok(body.slice(..body.len() / 2))).await;
                let _ = sender.send(Err(Broken)).await;
            }
            Manner::Trickle(pause) => {
                let size = (body.len() / 16).max(1);
                for start in (0..body.len()).step_by(size) {
                    let piece = body.slice(start..body.len().min(start + size));
                    if sender.send(Ok(piece)).await.is_err() {
                        return;
                    }
                    tokio::time::sleep(pause).await;
                }
            }
        }
    });
    respond(code, pieces)
}

/// An answer in JSON.
pub(crate) fn json(code: u16, value: &Value, manner: Manner) -> Response<Pieces> {
    whole(code, value.to_string(), manner)
}

/// A refusal.
pub(crate) fn refusal(failure: &Failure) -> Response<Pieces> {
    let mut response = json(failure.code, &failure.status(), Manner::Whole);
    if let Some(seconds) = failure.retry_after {
        response.headers_mut().insert("retry-after", seconds.into());
    }
    response
}

/// An answer with this body.
pub(crate) fn respond(code: u16, body: Pieces) -> Response<Pieces> {
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(code).expect("a status");
    let json = hyper::header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(hyper::header::CONTENT_TYPE, json);
    response
}
