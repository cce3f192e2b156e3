//! Where the API server is, and what mtlsd shows it: as a pod finds them.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use hyper::header::HeaderValue;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use zeroize::Zeroizing;

use super::error::KubeError;

/// Where kubelet mounts the token and the cluster's CA.
pub const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// Longest token, in bytes; those of service accounts have about 1,000.
pub const MAX_TOKEN: usize = 16 * 1024;
/// Largest file of roots, in bytes.
const MAX_ROOTS: u64 = 1 << 20;

/// Why this is not a pod that can reach its API server.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A variable is not there.
    #[error("{0} is not set: this process does not run in a pod; in a DaemonSet kubelet sets it")]
    Missing(&'static str),
    /// A variable that cannot be used.
    #[error("{variable}={text:?} is not usable: {reason}")]
    Unusable {
        /// The variable.
        variable: &'static str,
        /// What it says.
        text: String,
        /// What is wrong with it.
        reason: &'static str,
    },
}

/// An API server, and the files for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterConfig {
    host: Host,
    port: u16,
    /// The roots that the server is verified under, as PEM; read again for each connection.
    pub ca_file: PathBuf,
    /// The bearer token; read again for each request, since kubelet replaces it about each hour.
    pub token_file: PathBuf,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Host {
    Address(IpAddr),
    Name(String),
}

impl ClusterConfig {
    /// As a pod's environment says; token and roots are in this directory, by default [`SERVICE_ACCOUNT`].
    ///
    /// # Errors
    /// Outside of a pod.
    pub fn in_cluster(service_account: &Path) -> Result<Self, ConfigError> {
        Self::from_variables(|name| std::env::var(name).ok(), service_account)
    }

    /// As [`ClusterConfig::in_cluster`], of these variables and this directory.
    ///
    /// # Errors
    /// If a variable is missing or is none.
    pub fn from_variables(
        variable: impl Fn(&str) -> Option<String>,
        service_account: &Path,
    ) -> Result<Self, ConfigError> {
        const HOST: &str = "KUBERNETES_SERVICE_HOST";
        const PORT: &str = "KUBERNETES_SERVICE_PORT";
        let host = variable(HOST).filter(|text| !text.is_empty()).ok_or(ConfigError::Missing(HOST))?;
        let port = variable(PORT).filter(|text| !text.is_empty()).ok_or(ConfigError::Missing(PORT))?;
        let unusable = |variable, text: &str, reason| {
            let text = crate::identity::leaf::show(text);
            ConfigError::Unusable { variable, text, reason }
        };
        let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        let host = match address {
            Ok(address) => Host::Address(address),
            // What rustls takes as a name has no character that could change a request.
            Err(_) if ServerName::try_from(host.as_str()).is_ok() => Host::Name(host),
            Err(_) => return Err(unusable(HOST, &host, "it is neither an address nor a DNS name")),
        };
        let number = port.parse().ok().filter(|port| *port != 0);
        let port = number.ok_or_else(|| unusable(PORT, &port, "it is no port from 1 to 65535"))?;
        let (ca_file, token_file) = (service_account.join("ca.crt"), service_account.join("token"));
        Ok(Self { host, port, ca_file, token_file })
    }

    /// Host and port, as `Host:` says them.
    pub(super) fn authority(&self) -> String {
        self.to_string()
    }

    /// Host and port, to be looked up.
    pub(super) fn host_and_port(&self) -> (String, u16) {
        match &self.host {
            Host::Address(address) => (address.to_string(), self.port),
            Host::Name(name) => (name.clone(), self.port),
        }
    }

    /// Whom the certificate must be for.
    pub(super) fn server_name(&self) -> Option<ServerName<'static>> {
        match &self.host {
            Host::Address(address) => Some(ServerName::IpAddress((*address).into())),
            Host::Name(name) => ServerName::try_from(name.clone()).ok(),
        }
    }

    /// The token of now, as a header.
    pub(super) fn bearer(&self) -> Result<HeaderValue, KubeError> {
        let failed =
            |reason: String| KubeError::File { what: "token", path: self.token_file.clone(), reason };
        let limit = u64::try_from(MAX_TOKEN).unwrap_or(u64::MAX).saturating_add(2);
        // Room at the start: no copy of it stays behind in memory that grew.
        let mut text = Zeroizing::new(String::with_capacity(MAX_TOKEN + 2));
        let read = File::open(&self.token_file).and_then(|file| file.take(limit).read_to_string(&mut text));
        read.map_err(|error| failed(error.to_string()))?;
        let token = text.trim();
        if token.is_empty() {
            return Err(failed("it is empty".to_owned()));
        }
        if token.len() > MAX_TOKEN {
            return Err(failed(format!("it is longer than {MAX_TOKEN} bytes")));
        }
        if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(failed("it has characters that no token has".to_owned()));
        }
        let header = Zeroizing::new(format!("Bearer {token}"));
        let mut header = HeaderValue::from_str(&header).map_err(|error| failed(error.to_string()))?;
        header.set_sensitive(true);
        Ok(header)
    }

    /// The roots of now.
    pub(super) fn roots(&self) -> Result<RootCertStore, KubeError> {
        let failed = |reason: String| KubeError::File { what: "roots", path: self.ca_file.clone(), reason };
        let mut pem = Vec::new();
        let read = File::open(&self.ca_file).and_then(|file| file.take(MAX_ROOTS).read_to_end(&mut pem));
        read.map_err(|error| failed(error.to_string()))?;
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&pem) {
            let certificate = certificate.map_err(|error| failed(error.to_string()))?;
            roots.add(certificate).map_err(|error| failed(error.to_string()))?;
        }
        if roots.is_empty() {
            return Err(failed("there is no certificate in it".to_owned()));
        }
        Ok(roots)
    }
}

impl fmt::Display for ClusterConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Address(IpAddr::V6(address)) => write!(f, "[{address}]:{}", self.port),
            Host::Address(address) => write!(f, "{address}:{}", self.port),
            Host::Name(name) => write!(f, "{name}:{}", self.port),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(host: &str, port: &str) -> Result<ClusterConfig, ConfigError> {
        let variable = |name: &str| match name {
            "KUBERNETES_SERVICE_HOST" => (host != "-").then(|| host.to_owned()),
            "KUBERNETES_SERVICE_PORT" => (port != "-").then(|| port.to_owned()),
            _ => None,
        };
        ClusterConfig::from_variables(variable, Path::new("/sa"))
    }

    #[test]
    fn a_pod_finds_its_api_server_by_address_of_either_family_or_by_name() {
        for (host, port, authority) in [
            ("10.96.0.1", "443", "10.96.0.1:443"),
            ("fd00::1", "6443", "[fd00::1]:6443"),
            ("[fd00::1]", "6443", "[fd00::1]:6443"),
            ("api.example.org", "443", "api.example.org:443"),
        ] {
            let config = config(host, port).unwrap();
            assert_eq!(config.authority(), authority);
            assert!(config.server_name().is_some(), "{host}");
            assert_eq!(config.token_file, Path::new("/sa/token"));
        }
    }

    #[test]
    fn what_is_missing_or_none_is_named() {
        assert_eq!(config("-", "443"), Err(ConfigError::Missing("KUBERNETES_SERVICE_HOST")));
        assert_eq!(config("10.96.0.1", ""), Err(ConfigError::Missing("KUBERNETES_SERVICE_PORT")));
        for (host, port) in [("a/b", "443"), ("a b", "443"), ("a", "0"), ("a", "65536"), ("a", "x")] {
            assert!(matches!(config(host, port), Err(ConfigError::Unusable { .. })), "{host} {port}");
        }
    }

    #[test]
    fn a_token_is_read_as_it_is_now_and_one_that_is_none_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let mut config = config("10.96.0.1", "443").unwrap();
        config.token_file = directory.path().join("token");
        assert!(matches!(config.bearer(), Err(KubeError::File { what: "token", .. })));
        std::fs::write(&config.token_file, "abc.def\n").unwrap();
        let header = config.bearer().unwrap();
        assert_eq!(header.as_bytes(), b"Bearer abc.def");
        assert!(!format!("{header:?}").contains("abc"));
        std::fs::write(&config.token_file, "ghi").unwrap();
        assert_eq!(config.bearer().unwrap().as_bytes(), b"Bearer ghi");
        for bad in [String::new(), " \n".into(), "a b".into(), "a\r\nx: y".into(), "x".repeat(MAX_TOKEN + 1)]
        {
            std::fs::write(&config.token_file, bad).unwrap();
            assert!(config.bearer().is_err());
        }
    }
}
