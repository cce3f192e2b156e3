//! The daemon's side of the deny list.

use std::sync::Arc;

use axum::extract::State;
use axum::extract::connect_info::ConnectInfo;
use axum::extract::rejection::JsonRejection;
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};

use super::{RevokeReport, RevokeRequest, UnrevokeReport, UnrevokeRequest};
use crate::control::admin::{Failure, Peer};
use crate::control::view::DaemonView;
use crate::identity::revocation::{Entry, RevocationError};

/// `/v1/revocations`, `/v1/revoke` and `/v1/unrevoke`.
pub(in crate::control) fn routes<V: DaemonView>() -> Router<Arc<V>> {
    Router::new()
        .route("/v1/revocations", get(list::<V>))
        .route("/v1/revoke", post(revoke::<V>))
        .route("/v1/unrevoke", post(unrevoke::<V>))
}

async fn list<V: DaemonView>(State(view): State<Arc<V>>) -> Json<Vec<Arc<Entry>>> {
    Json(view.revocations())
}

async fn revoke<V: DaemonView>(
    State(view): State<Arc<V>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    body: Result<Json<RevokeRequest>, JsonRejection>,
) -> Result<Json<RevokeReport>, Failure> {
    let Json(request) = body.map_err(|rejection| bad_body(&rejection))?;
    on_disk(move || view.revoke(request, peer.name())).await.map(Json)
}

async fn unrevoke<V: DaemonView>(
    State(view): State<Arc<V>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    body: Result<Json<UnrevokeRequest>, JsonRejection>,
) -> Result<Json<UnrevokeReport>, Failure> {
    let Json(request) = body.map_err(|rejection| bad_body(&rejection))?;
    on_disk(move || view.unrevoke(request, peer.name())).await.map(Json)
}

/// Where waiting for the disk holds up no connection.
async fn on_disk<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, RevocationError> + Send + 'static,
) -> Result<T, Failure> {
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome.map_err(|error| failure(&error)),
        Err(error) => {
            let mend = "look at the daemon's log and report it";
            Err(Failure::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string(), mend))
        }
    }
}

fn failure(error: &RevocationError) -> Failure {
    let status = match error {
        RevocationError::Io { .. } | RevocationError::Broken { .. } => StatusCode::INTERNAL_SERVER_ERROR,
        RevocationError::NotRevoked(_) => StatusCode::NOT_FOUND,
        RevocationError::Full | RevocationError::LongReason(_) | RevocationError::TooLong(_) => {
            StatusCode::BAD_REQUEST
        }
    };
    Failure::new(status, error.to_string(), "nothing was changed")
}

fn bad_body(rejection: &JsonRejection) -> Failure {
    Failure::new(StatusCode::BAD_REQUEST, rejection.body_text(), "see `mtlsd help revoke`")
}
