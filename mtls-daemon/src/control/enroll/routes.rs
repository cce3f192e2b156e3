//! The daemon's side.

use std::sync::Arc;

use axum::extract::State;
use axum::extract::connect_info::ConnectInfo;
use axum::extract::rejection::JsonRejection;
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};

use super::{Changed, EnrolError, EnrolReport, EnrolRequest, Enrolled, UnenrolRequest};
use crate::control::admin::{Failure, Peer, aside, bad_body};
use crate::control::view::{DaemonView, WorkloadStatus};

const SEE: &str = "see `mtlsd help enroll`";

/// `/v1/enroll`, `/v1/unenroll`, `/v1/confirm`, `/v1/enrolled` and `/v1/look`.
pub(in crate::control) fn routes<V: DaemonView>() -> Router<Arc<V>> {
    Router::new()
        .route("/v1/enrolled", get(list::<V>))
        .route("/v1/enroll", post(enroll::<V>))
        .route("/v1/unenroll", post(unenroll::<V>))
        .route("/v1/confirm", post(confirm::<V>))
        .route("/v1/look", post(look::<V>))
}

async fn list<V: DaemonView>(State(view): State<Arc<V>>) -> Result<Json<Vec<Enrolled>>, Failure> {
    Ok(Json(aside(move || view.enrolled()).await??))
}

async fn enroll<V: DaemonView>(
    State(view): State<Arc<V>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    body: Result<Json<EnrolRequest>, JsonRejection>,
) -> Result<Json<EnrolReport>, Failure> {
    let Json(request) = body.map_err(bad_body(SEE))?;
    Ok(Json(aside(move || view.enroll(&request, &peer.name())).await??))
}

async fn unenroll<V: DaemonView>(
    State(view): State<Arc<V>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    body: Result<Json<UnenrolRequest>, JsonRejection>,
) -> Result<Json<Changed>, Failure> {
    let Json(request) = body.map_err(bad_body(SEE))?;
    Ok(Json(aside(move || view.unenroll(&request.name, &peer.name())).await??))
}

async fn confirm<V: DaemonView>(
    State(view): State<Arc<V>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
) -> Result<Json<Changed>, Failure> {
    Ok(Json(aside(move || view.confirm(&peer.name())).await??))
}

async fn look<V: DaemonView>(State(view): State<Arc<V>>) -> Result<Json<Vec<WorkloadStatus>>, Failure> {
    let look = move || {
        view.look();
        view.workloads()
    };
    Ok(Json(aside(look).await?))
}

impl From<EnrolError> for Failure {
    fn from(error: EnrolError) -> Self {
        let status = match error {
            EnrolError::Unit(..) | EnrolError::Refused(_) => StatusCode::BAD_REQUEST,
            EnrolError::NotEnrolled(_) => StatusCode::NOT_FOUND,
            EnrolError::Unconfirmed { .. } | EnrolError::NothingToConfirm => StatusCode::CONFLICT,
            EnrolError::File { .. } => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, error.to_string(), error.mend())
    }
}
