//! A stream of an agent that is kept open: one task, whoever and however many use what it brings.

use std::error::Error as _;
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use hyper::http::uri::PathAndQuery;
use tokio::task::JoinHandle;
use tonic::client::Grpc;

use tonic::metadata::MetadataValue;
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;

use super::Agent;
use super::error::{AgentError, Fault};
use crate::identity::leaf::show;
use crate::identity::{IdentityError, Wake};

/// Largest message that is taken, in bytes; gRPC's own default.
pub const MAX_MESSAGE: usize = 4 << 20;

/// How long is waited for what.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// Pause after the first failure; it doubles.
    pub min_pause: Duration,
    /// The longest pause.
    pub max_pause: Duration,
    /// From the call to the first answer, which an agent gives at once (SPIFFE Workload API, section 4.3).
    pub first_answer: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            min_pause: Duration::from_secs(1),
            max_pause: Duration::from_secs(30),
            first_answer: Duration::from_secs(30),
        }
    }
}

/// A call with one request and a stream of answers, each of which replaces the one before.
pub(super) trait Call: Send + Sync + 'static {
    type Request: prost::Message + 'static;
    type Response: prost::Message + Default + 'static;
    /// What a message means.
    type Answer: PartialEq + Send + Sync;

    /// Service and method, as in the request's `:path`.
    const PATH: &'static str;

    fn request(&self) -> Self::Request;

    /// Reads a message. One that is refused leaves the answer before in force.
    fn read(&self, response: Self::Response, now: SystemTime) -> Result<Self::Answer, Fault>;
}

/// The method of a [`Call::PATH`].
pub(super) fn method(path: &'static str) -> &'static str {
    path.rsplit('/').next().unwrap_or(path)
}

/// How the stream stands.
#[derive(PartialEq)]
enum Standing {
    /// The answer is that of now.
    Good,
    /// The agent says that mtlsd is entitled to nothing.
    Denied(String),
    /// The answer is the last good one, if there is any.
    Trouble(Arc<AgentError>),
}

struct State<A> {
    answer: Option<Arc<A>>,
    standing: Standing,
    wakes: Vec<Wake>,
}

struct Shared<C: Call> {
    agent: Arc<Agent>,
    call: C,
    version: AtomicU64,
    state: Mutex<State<C::Answer>>,
}

/// A stream that is open, or about to be. Dropped with its last user, and then closed.
pub(super) struct Feed<C: Call> {
    shared: Arc<Shared<C>>,
    task: JoinHandle<()>,
}

impl<C: Call> Feed<C> {
    /// Starts the task.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn open(agent: Arc<Agent>, call: C) -> Self {
        let pending = AgentError::Pending { socket: agent.socket().to_owned() };
        let standing = Standing::Trouble(Arc::new(pending));
        let state = Mutex::new(State { answer: None, standing, wakes: Vec::new() });
        let shared = Arc::new(Shared { agent, call, version: AtomicU64::new(0), state });
        let task = tokio::spawn(keep_open(Arc::clone(&shared)));
        Self { shared, task }
    }

    /// Whom to wake when the version changes.
    pub fn tell(&self, wake: &Wake) {
        let mut state = self.shared.lock();
        if !state.wakes.iter().any(|known| known.is_same(wake)) {
            state.wakes.push(wake.clone());
        }
    }

    /// Changes whenever [`Feed::current`] does.
    pub fn version(&self) -> u64 {
        self.shared.version.load(Ordering::SeqCst)
    }

    /// The answer of now.
    pub fn current(&self) -> Result<Arc<C::Answer>, IdentityError> {
        let state = self.shared.lock();
        match (&state.standing, &state.answer) {
            (Standing::Good, Some(answer)) => Ok(Arc::clone(answer)),
            (Standing::Denied(reason), _) => Err(IdentityError::Withdrawn(reason.clone())),
            (Standing::Trouble(error), _) => Err(Arc::clone(error).into()),
            (Standing::Good, None) => {
                Err(Arc::new(AgentError::Pending { socket: self.shared.agent.socket().to_owned() }).into())
            }
        }
    }

    /// What to say of a field of the answer of now.
    pub fn refuse(&self, fault: Fault) -> IdentityError {
        Arc::new(self.shared.malformed(fault)).into()
    }
}

impl<C: Call> Drop for Feed<C> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl<C: Call> fmt::Debug for Feed<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Feed({} {})", self.shared.agent.socket().display(), method(C::PATH))
    }
}

async fn keep_open<C: Call>(shared: Arc<Shared<C>>) {
    let timing = shared.agent.timing();
    let mut pauses = Pauses::new(timing);
    loop {
        let (heard, standing) = shared.listen().await;
        shared.stands(standing);
        if heard {
            pauses = Pauses::new(timing);
        }
        tokio::time::sleep(jittered(pauses.next())).await;
    }
}

/// How long to wait before each further try.
struct Pauses {
    next: Duration,
    most: Duration,
}

impl Pauses {
    fn new(timing: Timing) -> Self {
        Self { next: timing.min_pause, most: timing.max_pause }
    }

    fn next(&mut self) -> Duration {
        let pause = self.next;
        self.next = pause.saturating_mul(2).min(self.most);
        pause
    }
}

/// Between half of it and all of it, so that the daemons of a fleet do not come back all at once.
fn jittered(pause: Duration) -> Duration {
    let mut random = [0; 1];
    // Without random numbers all of it is as good.
    if aws_lc_rs::rand::fill(&mut random).is_err() {
        return pause;
    }
    let [part] = random;
    pause / 2 + (pause / 2).saturating_mul(part.into()) / 255
}

impl<C: Call> Shared<C> {
    /// Reads answers until the stream ends; was there a good one, and how does it stand now?
    async fn listen(&self) -> (bool, Standing) {
        let mut heard = false;
        let standing = match self.read_all(&mut heard).await {
            Ok(error) => Standing::Trouble(Arc::new(error)),
            Err(status) if status.code() == Code::PermissionDenied => Standing::Denied(format!(
                "{}: {} is denied: {}; check the registration entry of mtlsd",
                self.agent.socket().display(),
                method(C::PATH),
                show(status.message())
            )),
            Err(status) => Standing::Trouble(Arc::new(self.failed(&status))),
        };
        (heard, standing)
    }

    async fn read_all(&self, heard: &mut bool) -> Result<AgentError, Status> {
        let limit = self.agent.timing().first_answer;
        let first = tokio::time::timeout(limit, async {
            let mut stream = self.start().await?;
            let message = stream.message().await?;
            Ok::<_, Status>((stream, message))
        });
        let (socket, call) = (self.agent.socket().to_owned(), method(C::PATH));
        let Ok(first) = first.await else { return Ok(AgentError::Silent { socket, call, limit }) };
        let (mut stream, mut message) = first?;
        while let Some(response) = message {
            *heard |= self.take(response);
            message = stream.message().await?;
        }
        Ok(AgentError::Ended { socket, call })
    }

    async fn start(&self) -> Result<tonic::Streaming<C::Response>, Status> {
        let mut client = Grpc::new(self.agent.channel()?).max_decoding_message_size(MAX_MESSAGE);
        client.ready().await.map_err(|error| Status::from_error(Box::new(error)))?;
        let mut request = Request::new(self.call.request());
        // Keeps a confused deputy out (SPIFFE Workload Endpoint, section 3.1); SPIRE's admin API does not mind it.
        request.metadata_mut().insert("workload.spiffe.io", MetadataValue::from_static("true"));
        let codec = ProstCodec::<C::Request, C::Response>::default();
        let answers = client.server_streaming(request, PathAndQuery::from_static(C::PATH), codec).await?;
        Ok(answers.into_inner())
    }

    /// Takes a message over, or says what is wrong with it; is it good?
    fn take(&self, response: C::Response) -> bool {
        match self.call.read(response, SystemTime::now()) {
            Ok(answer) => {
                self.change(|state| {
                    let same = state.answer.as_deref() == Some(&answer);
                    if !same {
                        state.answer = Some(Arc::new(answer));
                    }
                    let stood = std::mem::replace(&mut state.standing, Standing::Good);
                    !same || stood != Standing::Good
                });
                true
            }
            Err(fault) => {
                self.stands(Standing::Trouble(Arc::new(self.malformed(fault))));
                false
            }
        }
    }

    fn stands(&self, standing: Standing) {
        self.change(|state| {
            let changed = state.standing != standing;
            state.standing = standing;
            changed
        });
    }

    /// Changes the state, and tells those who wait if it is another one now.
    fn change(&self, change: impl FnOnce(&mut State<C::Answer>) -> bool) {
        let mut state = self.lock();
        if change(&mut state) {
            self.version.fetch_add(1, Ordering::SeqCst);
            state.wakes.iter().for_each(Wake::wake);
        }
    }

    fn malformed(&self, fault: Fault) -> AgentError {
        let socket = self.agent.socket().to_owned();
        AgentError::Malformed { socket, call: method(C::PATH), fault: Box::new(fault) }
    }

    fn failed(&self, status: &Status) -> AgentError {
        let socket = self.agent.socket().to_owned();
        let mut source = status.source();
        while let Some(error) = source {
            if let Some(error) = error.downcast_ref::<io::Error>() {
                return AgentError::Connect { socket, reason: error.to_string() };
            }
            source = error.source();
        }
        let code = format!("{:?}", status.code());
        AgentError::Status { socket, call: method(C::PATH), code, message: show(status.message()) }
    }

    fn lock(&self) -> MutexGuard<'_, State<C::Answer>> {
        // No code panics while it holds the lock, and what it guards is valid at every step.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_from_one_second_to_thirty() {
        let mut pauses = Pauses::new(Timing::default());
        let seconds: Vec<_> = (0..7).map(|_| pauses.next().as_secs()).collect();
        assert_eq!(seconds, [1, 2, 4, 8, 16, 30, 30]);
    }

    #[test]
    fn a_pause_is_between_half_and_all_of_it() {
        let pauses: Vec<_> = (0..1000).map(|_| jittered(Duration::from_secs(2))).collect();
        let (least, most) = (pauses.iter().min().unwrap(), pauses.iter().max().unwrap());
        assert!(*least >= Duration::from_secs(1) && *most <= Duration::from_secs(2), "{least:?} {most:?}");
        assert_ne!(least, most);
    }
}
