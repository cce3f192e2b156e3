//! HTTP requests of the daemon itself, to issuers and for revocation: bounded in time and in bytes, without redirects, without
//! a proxy of the environment, and with the roots of one file. They block: call them where that is allowed.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use ureq::http::{Request, Response};
use ureq::tls::{Certificate, RootCerts, TlsConfig, TlsProvider};
use ureq::{Agent, Body};

/// Where Debian and its relatives keep the roots of public CAs.
pub const SYSTEM_ROOTS: &str = "/etc/ssl/certs/ca-certificates.crt";
/// Most bytes of an answer's head.
const MAX_HEAD: usize = 16 * 1024;

/// Longer than any that is meant.
const MAX_URL: usize = 2_048;

/// Is it a URL that can be asked: http:// or https://, with a host, in printable ASCII?
#[must_use]
pub fn is_url(url: &str) -> bool {
    let rest = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
    let fine =
        |rest: &str| !rest.is_empty() && !rest.starts_with('/') && rest.bytes().all(|b| b.is_ascii_graphic());
    rest.is_some_and(fine) && url.len() <= MAX_URL
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The roots cannot be read.
    #[error("the roots for HTTPS in {} cannot be used: {reason}; check `ca_file`", path.display())]
    Roots {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A URL that is none, or a header that cannot be sent.
    #[error("{url} cannot be asked: {reason}; check the URL and the token")]
    Request {
        /// The URL.
        url: String,
        /// What the library said.
        reason: String,
    },
    /// It took too long.
    #[error("{url} had not answered after {limit:?}; check that it is up, and the network")]
    Timeout {
        /// The URL.
        url: String,
        /// The limit.
        limit: Duration,
    },
    /// The answer is too long.
    #[error("{url} answered more than {limit} bytes; check that it is the right address")]
    TooLarge {
        /// The URL.
        url: String,
        /// Most bytes that are read.
        limit: u64,
    },
    /// No connection, no TLS, or no HTTP.
    #[error("{url} cannot be reached: {source}; check that it is up, and its certificate")]
    Transport {
        /// The URL.
        url: String,
        /// What the library said.
        source: Box<ureq::Error>,
    },
}

/// How to ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchSettings {
    /// The roots that HTTPS servers are verified under, as PEM; `None`: [`SYSTEM_ROOTS`].
    pub ca_file: Option<PathBuf>,
    /// For one request, from the look-up of the name to the last byte.
    pub timeout: Duration,
    /// Most bytes of an answer.
    pub max_bytes: u64,
}

/// What a server said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status. Every status is an answer, also 404 and 503.
    pub status: u16,
    /// Media type, without parameters, in lower case.
    pub content_type: Option<String>,
    /// The body.
    pub body: Vec<u8>,
}

/// Asks HTTP and HTTPS servers.
#[derive(Debug, Clone)]
pub struct Fetch {
    settings: FetchSettings,
}

impl Fetch {
    /// Nothing is read or opened before the first request: a CA file that is replaced is read again.
    #[must_use]
    pub fn new(settings: FetchSettings) -> Self {
        Self { settings }
    }

    /// GET.
    ///
    /// # Errors
    /// Without an answer; one with an error status is an answer.
    pub fn get(&self, url: &str, headers: &[(&str, &str)]) -> Result<Answer, FetchError> {
        self.ask("GET", url, headers, &[])
    }

    /// POST.
    ///
    /// # Errors
    /// As [`Fetch::get`].
    pub fn post(&self, url: &str, headers: &[(&str, &str)], body: &[u8]) -> Result<Answer, FetchError> {
        self.ask("POST", url, headers, body)
    }

    fn ask(
        &self,
        method: &str,
        url: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Answer, FetchError> {
        self.ask_with(&self.agent(url, 0)?, method, url, headers, body)
    }

    fn ask_with(
        &self,
        agent: &Agent,
        method: &str,
        url: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Answer, FetchError> {
        let request =
            headers.iter().fold(Request::builder().method(method).uri(url), |request, (name, value)| {
                request.header(*name, *value)
            });
        let refused = |reason: String| FetchError::Request { url: url.to_owned(), reason };
        let answer = if method == "GET" {
            agent.run(request.body(()).map_err(|error| refused(error.to_string()))?)
        } else {
            agent.run(request.body(body).map_err(|error| refused(error.to_string()))?)
        };
        self.read(answer.map_err(|error| self.failure(url, error))?, url)
    }

    fn read(&self, mut answer: Response<Body>, url: &str) -> Result<Answer, FetchError> {
        let status = answer.status().as_u16();
        let content_type = answer.body().mime_type().map(str::to_ascii_lowercase);
        let body = answer.body_mut().with_config().limit(self.settings.max_bytes).read_to_vec();
        Ok(Answer { status, content_type, body: body.map_err(|error| self.failure(url, error))? })
    }

    fn failure(&self, url: &str, error: ureq::Error) -> FetchError {
        let url = url.to_owned();
        match error {
            ureq::Error::Timeout(_) => FetchError::Timeout { url, limit: self.settings.timeout },
            ureq::Error::BodyExceedsLimit(limit) => FetchError::TooLarge { url, limit },
            ureq::Error::BadUri(reason) => FetchError::Request { url, reason },
            ureq::Error::Io(error) if error.kind() == io::ErrorKind::TimedOut => {
                FetchError::Timeout { url, limit: self.settings.timeout }
            }
            source => FetchError::Transport { url, source: Box::new(source) },
        }
    }

    /// A fresh one for each request where these are rare: a connection that is kept would be one more thing to go stale.
    fn agent(&self, url: &str, idle: usize) -> Result<Agent, FetchError> {
        let tls = TlsConfig::builder()
            .provider(TlsProvider::Rustls)
            .unversioned_rustls_crypto_provider(Arc::new(aws_lc_rs::default_provider()));
        let tls = if url.starts_with("https:") { tls.root_certs(self.roots()?) } else { tls };
        Ok(Agent::config_builder()
            .timeout_global(Some(self.settings.timeout))
            .http_status_as_error(false)
            .max_redirects(0)
            .proxy(None)
            .user_agent(concat!("mtlsd/", env!("CARGO_PKG_VERSION")))
            .max_response_header_size(MAX_HEAD)
            .max_idle_connections(idle)
            .max_idle_connections_per_host(idle)
            .tls_config(tls.build())
            .build()
            .new_agent())
    }

    fn roots(&self) -> Result<RootCerts, FetchError> {
        let path = self.settings.ca_file.as_deref().unwrap_or(Path::new(SYSTEM_ROOTS));
        let unusable = |reason: String| FetchError::Roots { path: path.to_owned(), reason };
        let roots: Vec<_> = CertificateDer::pem_file_iter(path)
            .and_then(Iterator::collect::<Result<_, _>>)
            .map_err(|error| unusable(error.to_string()))?;
        if roots.is_empty() {
            return Err(unusable("there is no certificate in it".to_owned()));
        }
        let owned = roots.iter().map(|der: &CertificateDer<'_>| Certificate::from_der(der).to_owned());
        Ok(RootCerts::Specific(Arc::new(owned.collect())))
    }
}

/// [`Fetch`] for many requests to one server: it keeps connections, and the roots that it has read, until a request fails.
#[derive(Debug)]
pub struct KeptFetch {
    fetch: Fetch,
    idle: usize,
    agent: Mutex<Option<Agent>>,
}

impl KeptFetch {
    /// Nothing is read or opened before the first request. `idle`: most connections that are kept.
    #[must_use]
    pub fn new(settings: FetchSettings, idle: usize) -> Self {
        Self { fetch: Fetch::new(settings), idle, agent: Mutex::default() }
    }

    /// POST, of something that may arrive twice: what fails on a kept connection, which the server may have closed meanwhile,
    /// is sent once more on a fresh one.
    ///
    /// # Errors
    /// As [`Fetch::get`].
    pub fn post(&self, url: &str, headers: &[(&str, &str)], body: &[u8]) -> Result<Answer, FetchError> {
        let kept = self.kept().clone();
        if let Some(agent) = &kept {
            match self.fetch.ask_with(agent, "POST", url, headers, body) {
                Err(FetchError::Transport { .. }) => *self.kept() = None,
                other => return other,
            }
        }
        let agent = self.fetch.agent(url, self.idle)?;
        let answer = self.fetch.ask_with(&agent, "POST", url, headers, body)?;
        *self.kept() = Some(agent);
        Ok(answer)
    }

    fn kept(&self) -> MutexGuard<'_, Option<Agent>> {
        self.agent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
