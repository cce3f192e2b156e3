//! One connection to the API server: TCP, TLS under the cluster's own CA, HTTP/1.1.

use std::sync::Arc;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::crypto::aws_lc_rs;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;

use super::config::ClusterConfig;
use super::error::KubeError;

/// A connection. It ends when it is dropped, also one that the other side has forgotten.
#[derive(Debug)]
pub(super) struct Link {
    pub sender: SendRequest<Full<Bytes>>,
    task: JoinHandle<()>,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Connects. The roots are those of now.
pub(super) async fn connect(config: &ClusterConfig) -> Result<Link, KubeError> {
    let server = config.to_string();
    let no_tls =
        |reason: String| KubeError::Tls { server: server.clone(), roots: config.ca_file.clone(), reason };
    let name = config.server_name().ok_or_else(|| no_tls("its name is none of TLS".to_owned()))?;
    let tls = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| no_tls(error.to_string()))?
        .with_root_certificates(config.roots()?)
        .with_no_client_auth();
    let unreachable = |reason: String| KubeError::Connect { server: server.clone(), reason };
    let stream =
        TcpStream::connect(config.host_and_port()).await.map_err(|error| unreachable(error.to_string()))?;
    stream.set_nodelay(true).map_err(|error| unreachable(error.to_string()))?;
    let stream = TlsConnector::from(Arc::new(tls)).connect(name, stream).await;
    let stream = stream.map_err(|error| no_tls(error.to_string()))?;
    let (sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| unreachable(error.to_string()))?;
    let task = tokio::spawn(async move {
        // How it ended is told to whoever has a request on it.
        let _ = connection.await;
    });
    Ok(Link { sender, task })
}
