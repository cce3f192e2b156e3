//! The admin API: HTTP over the admin socket, for root and the daemon's own user only.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::connect_info::{ConnectInfo, Connected};
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Query, Request, State};
use axum::http::StatusCode;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::serve::IncomingStream;
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use tokio::net::UnixListener;
use tokio::sync::oneshot;

use super::socket::AdminSocket;
use super::view::{DaemonView, ReloadReport, Status, VerifyReport, WorkloadStatus};
use super::{diagnose, drill, enroll, revoke, rollout};
use crate::diagnose::{PathReport, UnknownParty};
use crate::observe::connection::{ConnectionId, ConnectionRecord};
use crate::observe::explain::{Explanation, explain_with};
use crate::observe::recorder::Party;

/// Connections listed when the query sets no limit.
pub const DEFAULT_LIMIT: usize = 100;
/// How long answers that are under way may take once the daemon stops.
const DRAIN: Duration = Duration::from_secs(3);

/// Why the admin API did not answer a question; the JSON body of every status other than 200.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiError {
    /// What went wrong.
    pub error: String,
    /// What to do.
    pub mend: String,
}

pub(super) struct Failure(StatusCode, ApiError);

impl Failure {
    pub(super) fn new(status: StatusCode, error: impl Into<String>, mend: impl Into<String>) -> Self {
        Self(status, ApiError { error: error.into(), mend: mend.into() })
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        (self.0, Json(self.1)).into_response()
    }
}

/// Serves the admin API until `stop` is done; answers that are under way get three seconds more.
///
/// # Errors
/// When the listener fails for good.
pub async fn serve_admin<V: DaemonView>(
    socket: AdminSocket,
    view: Arc<V>,
    stop: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let (listener, file) = socket.into_parts();
    let service = router(view).into_make_service_with_connect_info::<Peer>();
    let (stopping, stopped) = oneshot::channel();
    let served = axum::serve(listener, service).with_graceful_shutdown(async {
        stop.await;
        // Nobody listens any more when the service has ended by itself.
        let _ended = stopping.send(());
    });
    // A client that connects and says nothing would otherwise keep the daemon from stopping.
    let drained = async {
        match stopped.await {
            Ok(()) => tokio::time::sleep(DRAIN).await,
            Err(_) => std::future::pending().await,
        }
    };
    let outcome = tokio::select! {
        served = async { served.await } => served,
        () = drained => Ok(()),
    };
    drop(file);
    outcome
}

fn router<V: DaemonView>(view: Arc<V>) -> Router {
    Router::new()
        .route("/v1/status", get(status::<V>))
        .route("/v1/connections", get(connections::<V>))
        .route("/v1/workloads", get(workloads::<V>))
        .route("/v1/explain", get(explained::<V>))
        .route("/v1/path", get(path::<V>))
        .route("/v1/verify", get(verify::<V>))
        .route("/v1/reload", post(reload::<V>))
        .merge(revoke::routes())
        .merge(enroll::routes())
        .merge(drill::routes())
        .merge(diagnose::routes())
        .merge(rollout::routes())
        .fallback(no_such_path)
        .method_not_allowed_fallback(wrong_method)
        .layer(middleware::from_fn(only_owner))
        .with_state(view)
}

/// The user at the other end, as the kernel knows it (SO_PEERCRED).
#[derive(Debug, Clone, Copy)]
pub(super) struct Peer {
    uid: Option<u32>,
}

impl Peer {
    /// For what is kept of who did something.
    pub(super) fn name(self) -> String {
        self.uid.map_or_else(|| "unknown".to_owned(), |uid| format!("uid {uid}"))
    }

    fn may_ask(self, own: u32) -> bool {
        self.uid.is_some_and(|uid| uid == 0 || uid == own)
    }
}

impl Connected<IncomingStream<'_, UnixListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Self {
        Self { uid: stream.io().peer_cred().ok().map(|credentials| credentials.uid()) }
    }
}

/// The mode of the socket says the same; this holds even where somebody widened it.
async fn only_owner(ConnectInfo(peer): ConnectInfo<Peer>, request: Request, next: Next) -> Response {
    if peer.may_ask(nix::unistd::geteuid().as_raw()) {
        return next.run(request).await;
    }
    Failure::new(StatusCode::FORBIDDEN, "only root and the daemon's own user may ask", "run it with sudo")
        .into_response()
}

async fn no_such_path() -> Failure {
    let mend = "use the mtlsd command of the daemon's version";
    Failure::new(StatusCode::NOT_FOUND, "the daemon knows no such question", mend)
}

async fn wrong_method() -> Failure {
    let mend = "use GET to ask and POST to change something";
    Failure::new(StatusCode::METHOD_NOT_ALLOWED, "this path does not take this method", mend)
}

async fn status<V: DaemonView>(State(view): State<Arc<V>>) -> Json<Status> {
    Json(view.status())
}

async fn workloads<V: DaemonView>(State(view): State<Arc<V>>) -> Json<Vec<WorkloadStatus>> {
    Json(view.workloads())
}

async fn verify<V: DaemonView>(State(view): State<Arc<V>>) -> Json<VerifyReport> {
    Json(view.verify().await)
}

async fn reload<V: DaemonView>(State(view): State<Arc<V>>) -> Json<ReloadReport> {
    Json(view.reload().await)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ConnectionsQuery {
    workload: Option<String>,
    limit: Option<usize>,
}

async fn connections<V: DaemonView>(
    State(view): State<Arc<V>>,
    query: Result<Query<ConnectionsQuery>, QueryRejection>,
) -> Result<Json<Vec<Arc<ConnectionRecord>>>, Failure> {
    let Query(query) = query.map_err(bad_query)?;
    Ok(Json(view.recorder().list(query.workload.as_deref(), query.limit.unwrap_or(DEFAULT_LIMIT))))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ExplainQuery {
    id: Option<String>,
    #[serde(rename = "last-refused")]
    last_refused: Option<String>,
    near: Option<String>,
}

async fn explained<V: DaemonView>(
    State(view): State<Arc<V>>,
    query: Result<Query<ExplainQuery>, QueryRejection>,
) -> Result<Json<Explanation>, Failure> {
    let Query(query) = query.map_err(bad_query)?;
    let recorder = view.recorder();
    let (found, what) = match (query.id, query.last_refused) {
        (Some(id), None) => {
            let id: ConnectionId =
                id.parse().map_err(|error: crate::observe::connection::ConnectionIdError| {
                    Failure::new(StatusCode::BAD_REQUEST, error.to_string(), "run `mtlsd connections`")
                })?;
            (recorder.by_id(id), format!("connection {id}"))
        }
        (None, Some(_)) => (recorder.last_refused(), "refused connection".to_owned()),
        _ => {
            let mend = "give one of: id; last-refused";
            return Err(Failure::new(
                StatusCode::BAD_REQUEST,
                "the query does not name one connection",
                mend,
            ));
        }
    };
    let near = query.near.is_some();
    let told = |record: Arc<ConnectionRecord>| explain_with(&record, view.near_misses(&record, near));
    found.map(|record| Json(told(record))).ok_or_else(|| {
        let error = format!(
            "there is no {what} among those that are live and the last {} that ended",
            recorder.capacity()
        );
        let mend = "see `mtlsd connections`; older ones are in the access log; if it was never captured, \
                    `mtlsd verify` says why; recorder.entries sets how many are kept";
        Failure::new(StatusCode::NOT_FOUND, error, mend)
    })
}

/// Connections between two parties that an answer lists.
const RECENT: usize = 3;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PathQuery {
    from: String,
    to: String,
}

async fn path<V: DaemonView>(
    State(view): State<Arc<V>>,
    query: Result<Query<PathQuery>, QueryRejection>,
) -> Result<Json<PathReport>, Failure> {
    let Query(PathQuery { from, to }) = query.map_err(bad_query)?;
    let report = view.path(&from, &to).map_err(|error| {
        let status = match error {
            UnknownParty::NoPort(_) => StatusCode::BAD_REQUEST,
            _ => StatusCode::NOT_FOUND,
        };
        Failure::new(
            status,
            error.to_string(),
            "see `mtlsd workloads` and the directory in the configuration",
        )
    })?;
    let recent = view.recorder().between(&Party::from(from.as_str()), &Party::from(to.as_str()), RECENT);
    Ok(Json(report.with_recent(recent.iter().map(|record| (**record).clone()).collect())))
}

/// What is wrong about a body; `see`: where its command is explained.
pub(super) fn bad_body(see: &'static str) -> impl Fn(JsonRejection) -> Failure {
    move |rejection| Failure::new(StatusCode::BAD_REQUEST, rejection.body_text(), see)
}

/// Where waiting for the disk, for a reload or for a long computation holds up no connection.
pub(super) async fn aside<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work).await.map_err(|error| {
        let mend = "look at the daemon's log and report it";
        Failure::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string(), mend)
    })
}

pub(super) fn bad_query(rejection: QueryRejection) -> Failure {
    Failure::new(StatusCode::BAD_REQUEST, rejection.body_text(), "see `mtlsd help`")
}

#[cfg(test)]
pub(crate) mod tests {
    use std::num::NonZeroUsize;
    use std::os::unix::fs::PermissionsExt;
    use std::path::{Path, PathBuf};
    use std::time::SystemTime;

    use time::OffsetDateTime;

    use super::super::drill::{DrillError, DrillReport, DrillStep};
    use super::super::enroll::{self, Changed, EnrolError, EnrolReport, EnrolRequest, Enrolled};
    use super::super::revoke::{RevokeReport, RevokeRequest, UnrevokeReport, UnrevokeRequest};
    use super::super::rollout::RolloutError;
    use super::super::view::{
        Ability, Alarm, Check, ClusterStatus, ConfigStatus, ConnectionSums, KtlsDefect, KtlsStatus,
        LeftService, PolicyStatus, ResourceStatus, ServicesStatus, WorkloadState,
    };
    use super::*;
    use crate::diagnose::{Answer, LiveError, LiveReport, LiveRequest};
    use crate::flows::rollout::RolloutReport;
    use crate::flows::{Moment, Record};
    use crate::identity::CaStatus;
    use crate::identity::Revocations;
    use crate::identity::alarm::Level;
    use crate::identity::ca::Phase;
    use crate::identity::ca::{CaCertificate, CertificateKind};
    use crate::identity::revocation::{Entry, RevocationError};
    use crate::observe::connection::{Ending, LiveConnection, Opening};
    use crate::observe::explain::near::NearMisses;
    use crate::observe::{Direction, Reason, Recorder, Refusal};

    /// A daemon that has one workload and remembers three connections.
    pub(crate) struct Fake {
        pub(crate) recorder: Recorder,
        pub(crate) revocations: Revocations,
        pub(crate) healthy: bool,
    }

    impl Fake {
        pub(crate) fn new(healthy: bool) -> Self {
            let recorder = Recorder::new(NonZeroUsize::new(8).unwrap());
            recorder.open(Arc::new(connection(3)));
            recorder.record(Arc::new(connection(1).ended(Ending::Closed)));
            let refusal = Refusal::new(Reason::PolicyDenied, "rule no-web\u{1b}[31m");
            let refused = connection(2);
            refused.learn(|l| l.peer_identity = Some("spiffe://example.org/web".into()));
            recorder.record(Arc::new(refused.ended(Ending::Refused(refusal))));
            Self { recorder, revocations: Revocations::in_memory(), healthy }
        }
    }

    fn connection(id: u64) -> LiveConnection {
        LiveConnection::new(Opening {
            id: ConnectionId::from_u64(id),
            direction: Direction::Inbound,
            workload: "db".into(),
            local_identity: Some("spiffe://example.org/db".into()),
            source: "10.0.0.2:41000".parse().unwrap(),
            destination: "10.1.0.7:5432".parse().unwrap(),
        })
    }

    impl Fake {
        fn ktls(&self) -> KtlsStatus {
            let some = |text: &str| self.healthy.then(|| text.to_owned());
            KtlsStatus {
                available: self.healthy,
                suites: some("TLS_AES_128_GCM_SHA256").into_iter().collect(),
                missing: some("TLS_CHACHA20_POLY1305_SHA256: no such cipher").into_iter().collect(),
                rekey: false,
                why_no_rekey: some("EBUSY"),
                defects: some("it loses bytes")
                    .map(|what| KtlsDefect { what, remedy: "mtlsd minds".into() })
                    .into_iter()
                    .collect(),
                why_not: (!self.healthy).then(|| "this kernel has no tls module".into()),
            }
        }
    }

    impl DaemonView for Fake {
        fn status(&self) -> Status {
            Status {
                version: "1.2.3".into(),
                pid: 7,
                trust_domain: "example.org".into(),
                started: OffsetDateTime::UNIX_EPOCH,
                not_ready: if self.healthy { vec![] } else { vec!["db has no certificate".into()] },
                config: ConfigStatus {
                    file: PathBuf::from("/etc/mtlsd/mtlsd.yaml"),
                    generation: 2,
                    loaded: OffsetDateTime::UNIX_EPOCH,
                    last_refusal: (!self.healthy).then(|| "line 3: unknown key".into()),
                },
                alarms: match self.healthy {
                    true => Vec::new(),
                    false => vec![Alarm {
                        about: "workload db".into(),
                        level: Level::Critical,
                        detail: "the certificate expires in 3 min".into(),
                    }],
                },
                connections: ConnectionSums { live: 1, opened: 2, refused: 1, plaintext: 0, overdue: 3 },
                abilities: vec![Ability {
                    name: "relay-ktls".into(),
                    available: self.healthy,
                    detail: if self.healthy { "2 suites" } else { "this kernel has no tls module" }.into(),
                    ktls: Some(self.ktls()),
                }],
                kubernetes: Some(ClusterStatus {
                    node: "n1".into(),
                    resources: vec![ResourceStatus {
                        resource: "pods".into(),
                        objects: 3,
                        age_seconds: Some(400),
                        trouble: Some("it is away".into()),
                        refused: vec!["shop/odd: bad".into()],
                    }],
                    mixed_services: vec!["shop/web".into()],
                    services: Some(ServicesStatus {
                        resolved: 7,
                        left: (0..11)
                            .map(|n| LeftService { service: format!("shop/s{n}"), why: "bad".into() })
                            .collect(),
                    }),
                    policies: vec![PolicyStatus {
                        policy: "PeerAuthentication shop/all".into(),
                        accepted: false,
                        detail: "bad".into(),
                    }],
                }),
                embedded_ca: Some(CaStatus {
                    directory: PathBuf::from("/var/lib/mtlsd/ca"),
                    phase: Phase::Begun,
                    roots: vec!["old root".into(), "new root".into()],
                    root_not_after: OffsetDateTime::UNIX_EPOCH,
                    root_offline: true,
                    intermediate: "an intermediate".into(),
                    intermediate_not_after: OffsetDateTime::UNIX_EPOCH,
                    signed_elsewhere: false,
                    key_in_token: Some("ca-key of token mesh".into()),
                    certificates: vec![CaCertificate {
                        kind: CertificateKind::Intermediate,
                        name: "an intermediate".into(),
                        not_before: OffsetDateTime::UNIX_EPOCH,
                        not_after: OffsetDateTime::UNIX_EPOCH,
                    }],
                    alarms: if self.healthy { vec![] } else { vec!["renew the intermediate".into()] },
                }),
            }
        }

        fn workloads(&self) -> Vec<WorkloadStatus> {
            vec![WorkloadStatus {
                name: "db".into(),
                spiffe_id: "spiffe://example.org/db".into(),
                mode: "strict".into(),
                selector: "netns db".into(),
                state: if self.healthy { WorkloadState::Enrolled } else { WorkloadState::Failed },
                detail: if self.healthy { String::new() } else { "no certificate".into() },
                identity_source: "embedded CA".into(),
                certificate: None,
                identity_error: None,
                identity_alarm: if self.healthy { Level::Ok } else { Level::Critical },
                connections: ConnectionSums::default(),
            }]
        }

        fn look(&self) {}

        fn recorder(&self) -> &Recorder {
            &self.recorder
        }

        fn near_misses(&self, record: &ConnectionRecord, allowed_too: bool) -> Option<NearMisses> {
            let asked = allowed_too || record.reason.is_some();
            asked.then(|| NearMisses { looked_at: 1, of: 1, ..NearMisses::default() })
        }

        fn path(&self, from: &str, to: &str) -> Result<PathReport, UnknownParty> {
            if from != "web" {
                return Err(UnknownParty::From(from.to_owned()));
            }
            if !to.contains(':') {
                return Err(UnknownParty::NoPort(to.to_owned()));
            }
            Ok(PathReport {
                answer: if self.healthy { Answer::Allowed } else { Answer::Denied },
                protected: self.healthy,
                sentences: vec![format!("A connection from {from} to {to}.")],
                steps: Vec::new(),
                near_misses: None,
                datapath: None,
                why_not_better: None,
                generation: 2,
                recent: Vec::new(),
                mend: "Nothing needs mending.".into(),
            })
        }

        async fn diagnose(&self, request: LiveRequest, _: String) -> Result<LiveReport, LiveError> {
            if request.workload.as_deref() != Some("web") {
                return Err(LiveError::WhichWorkload(2));
            }
            Ok(LiveReport::example(self.healthy))
        }

        fn revocations(&self) -> Vec<Arc<Entry>> {
            self.revocations.entries(SystemTime::now())
        }

        fn revoke(&self, request: RevokeRequest, by: String) -> Result<RevokeReport, RevocationError> {
            let now = SystemTime::now();
            let entry = Entry::new(request.target, request.reason, by, request.seconds, now)?;
            self.revocations.revoke(entry.clone(), now)?;
            Ok(RevokeReport { entry, connections_cut: 2, connections_draining: 1, connections_kept: 0 })
        }

        fn unrevoke(&self, request: UnrevokeRequest, _: String) -> Result<UnrevokeReport, RevocationError> {
            let entries = self.revocations.unrevoke(&request.target, SystemTime::now())?;
            Ok(UnrevokeReport { entries })
        }

        fn enroll(&self, request: &EnrolRequest, _: &str) -> Result<EnrolReport, EnrolError> {
            enroll::tests::enroll(request, self.healthy)
        }

        fn unenroll(&self, name: &str, _: &str) -> Result<Changed, EnrolError> {
            match name {
                "nginx" => Ok(Changed { name: name.to_owned() }),
                other => Err(EnrolError::NotEnrolled(other.to_owned())),
            }
        }

        fn confirm(&self, _: &str) -> Result<Changed, EnrolError> {
            if self.healthy {
                Ok(Changed { name: "nginx".to_owned() })
            } else {
                Err(EnrolError::NothingToConfirm)
            }
        }

        fn enrolled(&self) -> Result<Vec<Enrolled>, EnrolError> {
            Ok(enroll::tests::list(self.healthy))
        }

        async fn drill_revoke(&self) -> Result<DrillReport, DrillError> {
            let step =
                |name: &str, ok| DrillStep { name: name.into(), ok, detail: "1 cut".into(), took_us: 1500 };
            let steps = vec![step("revoke it", true), step("it is cut", self.healthy)];
            Ok(DrillReport { spiffe_id: "spiffe://example.org/mtlsd/drill/1".into(), steps })
        }

        fn rollout(&self, workload: Option<&str>, since: Duration) -> Result<RolloutReport, RolloutError> {
            match workload {
                None | Some("db") => Ok(rollout::tests::report(self.healthy)),
                Some(other) => Err(RolloutError::NoWorkload(other.to_owned())),
            }
            .map(|report| RolloutReport { since: Moment::from_millis(1).before(since), ..report })
        }

        fn flows(&self, _: Duration) -> Result<Record, RolloutError> {
            if self.healthy { Ok(rollout::tests::record()) } else { Err(RolloutError::Off) }
        }

        async fn verify(&self) -> VerifyReport {
            VerifyReport {
                checks: vec![Check {
                    name: "connect4 attached".into(),
                    workload: Some("db".into()),
                    ok: self.healthy,
                    detail: "link 12".into(),
                    mend: if self.healthy { String::new() } else { "restart mtlsd".into() },
                }],
            }
        }

        async fn reload(&self) -> ReloadReport {
            ReloadReport {
                applied: self.healthy,
                generation: 2,
                messages: vec!["line 3: unknown key".into()],
            }
        }
    }

    /// A served admin socket; ends when dropped.
    pub(crate) struct Served {
        pub(crate) path: PathBuf,
        _directory: tempfile::TempDir,
        _stop: oneshot::Sender<()>,
    }

    pub(crate) fn serve(healthy: bool) -> Served {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("admin.sock");
        let socket = AdminSocket::bind(&path).unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let view = Arc::new(Fake::new(healthy));
        tokio::spawn(serve_admin(socket, view, async {
            let _dropped = stopped.await;
        }));
        Served { path, _directory: directory, _stop: stop }
    }

    /// Asks with a program that is not ours; status code and body.
    fn curl(path: &Path, uid: Option<u32>, arguments: &[&str]) -> (u16, String) {
        use std::os::unix::process::CommandExt;
        let mut command = std::process::Command::new("curl");
        command.args(["-sS", "-w", "\n%{http_code}", "--unix-socket"]).arg(path).args(arguments);
        if let Some(uid) = uid {
            command.uid(uid);
        }
        let output = command.output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let (body, status) = text.rsplit_once('\n').unwrap();
        (status.parse().unwrap(), body.to_owned())
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn an_http_client_gets_each_answer_as_json() {
        let served = serve(true);
        for (url, part) in [
            ("http://d/v1/status", r#""trust_domain":"example.org""#),
            ("http://d/v1/connections?workload=db&limit=1", r#""id":"0000000000000003""#),
            ("http://d/v1/workloads", r#""state":"enrolled""#),
            ("http://d/v1/explain?id=0000000000000001", "Nothing needs mending."),
            ("http://d/v1/explain?id=0000000000000001&near", r#""near_misses":{"says":"allow""#),
            ("http://d/v1/path?from=web&to=10.1.0.7:5432", r#""answer":"allowed""#),
            ("http://d/v1/explain?last-refused", r#""code":"policy_denied""#),
            ("http://d/v1/verify", r#""name":"connect4 attached""#),
        ] {
            let (status, body) = curl(&served.path, None, &[url]);
            assert_eq!(status, 200, "{url}: {body}");
            assert!(body.contains(part), "{url}: {body}");
        }
        let (status, body) = curl(&served.path, None, &["-X", "POST", "http://d/v1/reload"]);
        assert!(status == 200 && body.contains(r#""applied":true"#), "{body}");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn each_wrong_question_gets_its_status_and_a_mend() {
        let served = serve(true);
        for (url, want) in [
            ("http://d/v1/nothing", 404),
            ("http://d/v1/reload", 405),
            ("http://d/v1/revoke", 405),
            ("http://d/v1/diagnose", 405),
            ("http://d/v1/connections?limit=x", 400),
            ("http://d/v1/connections?limit=-1", 400),
            ("http://d/v1/connections?colour=red", 400),
            ("http://d/v1/explain", 400),
            ("http://d/v1/explain?id=zz", 400),
            ("http://d/v1/explain?from=web&to=db", 400),
            ("http://d/v1/path?from=web", 400),
            ("http://d/v1/path?from=web&to=db", 400),
            ("http://d/v1/path?from=nobody&to=db:1", 404),
            ("http://d/v1/explain?id=0000000000000001&last-refused", 400),
            ("http://d/v1/explain?id=00000000000000ff", 404),
        ] {
            let (status, body) = curl(&served.path, None, &[url]);
            assert_eq!(status, want, "{url}: {body}");
            let error: ApiError = serde_json::from_str(&body).unwrap();
            assert!(!error.error.is_empty() && !error.mend.is_empty(), "{url}: {body}");
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn a_request_that_is_not_one_changes_nothing_and_says_so() {
        let served = serve(true);
        for body in ["", "{", "{}", r#"{"target":{"kind":"key","sha256":"ab"}}"#, r#"{"target":1,"more":2}"#]
        {
            let header = "content-type: application/json";
            let arguments = ["-d", body, "-H", header, "http://d/v1/revoke"];
            let (status, body) = curl(&served.path, None, &arguments);
            assert_eq!(status, 400, "{body}");
            assert!(serde_json::from_str::<ApiError>(&body).is_ok(), "{body}");
        }
        let (_, list) = curl(&served.path, None, &["http://d/v1/revocations"]);
        assert_eq!(list, "[]");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn another_user_is_refused_even_if_the_socket_lets_him_in() {
        let own = nix::unistd::geteuid().as_raw();
        assert!(Peer { uid: Some(0) }.may_ask(own) && Peer { uid: Some(own) }.may_ask(own));
        assert!(!Peer { uid: None }.may_ask(own) && !Peer { uid: Some(own + 1) }.may_ask(own));
        if own != 0 {
            eprintln!("not root: asking as another user is left out");
            return;
        }
        let served = serve(true);
        let directory = served.path.parent().unwrap();
        for (path, mode) in [(directory, 0o755), (&served.path, 0o666)] {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        }
        let (status, body) = curl(&served.path, Some(65534), &["http://d/v1/status"]);
        assert_eq!(status, 403, "{body}");
        assert!(body.contains("sudo"), "{body}");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn stopping_ends_the_service_and_removes_the_socket() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("admin.sock");
        let socket = AdminSocket::bind(&path).unwrap();
        serve_admin(socket, Arc::new(Fake::new(true)), async {}).await.unwrap();
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_silent_client_does_not_keep_the_daemon_from_stopping() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("admin.sock");
        let socket = AdminSocket::bind(&path).unwrap();
        let _silent = tokio::net::UnixStream::connect(&path).await.unwrap();
        let stop = tokio::time::sleep(Duration::from_millis(200));
        let served = serve_admin(socket, Arc::new(Fake::new(true)), stop);
        tokio::time::timeout(DRAIN * 3, served).await.unwrap().unwrap();
        assert!(!path.exists());
    }
}
