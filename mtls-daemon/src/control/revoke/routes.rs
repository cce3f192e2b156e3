//! The daemon's side of the deny list.

use std::sync::Arc;

use axum::extract::State;
use axum::extract::connect_info::ConnectInfo;
use axum::extract::rejection::JsonRejection;
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};

use super::{RevokeReport, RevokeRequest, UnrevokeReport, UnrevokeRequest};
use crate::control::admin::{Failure, Peer, aside, bad_body};
use crate::control::view::DaemonView;
use crate::identity::revocation::{Entry, RevocationError};

const SEE: &str = "see `mtlsd help revoke`";

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
    let Json(request) = body.map_err(bad_body(SEE))?;
    Ok(Json(aside(move || view.revoke(request, peer.name())).await??))
}

async fn unrevoke<V: DaemonView>(
    State(view): State<Arc<V>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    body: Result<Json<UnrevokeRequest>, JsonRejection>,
) -> Result<Json<UnrevokeReport>, Failure> {
    let Json(request) = body.map_err(bad_body(SEE))?;
    Ok(Json(aside(move || view.unrevoke(request, peer.name())).await??))
}

impl From<RevocationError> for Failure {
    fn from(error: RevocationError) -> Self {
        let status = match error {
            RevocationError::Io { .. } | RevocationError::Broken { .. } => StatusCode::INTERNAL_SERVER_ERROR,
            RevocationError::NotRevoked(_) => StatusCode::NOT_FOUND,
            RevocationError::Full | RevocationError::LongReason(_) | RevocationError::TooLong(_) => {
                StatusCode::BAD_REQUEST
            }
        };
        Self::new(status, error.to_string(), "nothing was changed")
    }
}
