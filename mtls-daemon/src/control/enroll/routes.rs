//! The daemon's side.

use std::sync::Arc;

use axum::extract::State;
use axum::extract::connect_info::ConnectInfo;
use axum::extract::rejection::JsonRejection;
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};

use super::{Changed, EnrolError, EnrolReport, EnrolRequest, Enrolled, UnenrolRequest};
use crate::control::admin::{Failure, Peer};
use crate::control::view::{DaemonView, WorkloadStatus};

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
    aside(move || view.enrolled()).await.map(Json)
}

async fn enroll<V: DaemonView>(
    State(view): State<Arc<V>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    body: Result<Json<EnrolRequest>, JsonRejection>,
) -> Result<Json<EnrolReport>, Failure> {
    let Json(request) = body.map_err(|rejection| bad_body(&rejection))?;
    aside(move || view.enroll(&request, &peer.name())).await.map(Json)
}

async fn unenroll<V: DaemonView>(
    State(view): State<Arc<V>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    body: Result<Json<UnenrolRequest>, JsonRejection>,
) -> Result<Json<Changed>, Failure> {
    let Json(request) = body.map_err(|rejection| bad_body(&rejection))?;
    aside(move || view.unenroll(&request.name, &peer.name())).await.map(Json)
}

async fn confirm<V: DaemonView>(
    State(view): State<Arc<V>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
) -> Result<Json<Changed>, Failure> {
    aside(move || view.confirm(&peer.name())).await.map(Json)
}

async fn look<V: DaemonView>(State(view): State<Arc<V>>) -> Result<Json<Vec<WorkloadStatus>>, Failure> {
    let look = move || {
        view.look();
        Ok(view.workloads())
    };
    aside(look).await.map(Json)
}

/// Where waiting for the disk and for a reload holds up no connection.
async fn aside<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, EnrolError> + Send + 'static,
) -> Result<T, Failure> {
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome.map_err(|error| Failure::new(status(&error), error.to_string(), error.mend())),
        Err(error) => {
            let mend = "look at the daemon's log and report it";
            Err(Failure::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string(), mend))
        }
    }
}

fn status(error: &EnrolError) -> StatusCode {
    match error {
        EnrolError::Unit(..) | EnrolError::Refused(_) => StatusCode::BAD_REQUEST,
        EnrolError::NotEnrolled(_) => StatusCode::NOT_FOUND,
        EnrolError::Unconfirmed { .. } | EnrolError::NothingToConfirm => StatusCode::CONFLICT,
        EnrolError::File { .. } => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

fn bad_body(rejection: &JsonRejection) -> Failure {
    Failure::new(StatusCode::BAD_REQUEST, rejection.body_text(), "see `mtlsd help enroll`")
}
