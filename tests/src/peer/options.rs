//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::script::Action;

/// Who opens the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// We do.
    Client,
    /// The other side does.
    Server,
}

impl Role {
    /// The other side's.
    pub fn other(self) -> Self {
        match self {
            Self::Client => Self::Server,
            Self::Server => Self::Client,
        }
    }
}

/// Whose record layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layer {
    /// None: a plain TCP application.
    Plain,
    /// Our own.
    Own,
    /// rustls'.
    Rustls,
}

/// Everything that was asked for.
#[derive(Debug)]
pub struct Options {
    /// `connect` or `serve`.
    pub role: Role,
    /// Where.
    pub address: SocketAddr,
    /// `--plain`, `--rustls` or neither.
    pub layer: Layer,
    /// `--cert FILE`: the chain that we show.
    pub cert: PathBuf,
    /// `--key FILE`.
    pub key: PathBuf,
    /// `--ca FILE`: the root that must have issued the other side's chain.
    pub ca: PathBuf,
    /// `--name NAME`: the DNS name that a server must prove.
    pub name: String,
    /// `--alpn NAME`.
    pub alpn: Option<String>,
    /// `--suite NAME`: the end of the only cipher suite's name, such as `AES_128_GCM_SHA256`.
    pub suite: Option<String>,
    /// `--with-finished TEXT`: application data in the same write as our Finished.
    pub with_finished: Option<String>,
    /// The script, with its own words for messages.
    pub script: Vec<(String, Action)>,
}

impl Options {
    /// Reads the arguments.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn parse(mut args: impl Iterator<Item = String>) -> Result<Self, String> {
        let role = match args.next().as_deref() {
            Some("connect") => Role::Client,
            Some("serve") => Role::Server,
            other => return Err(format!("connect or serve, not {other:?}")),
        };
        let address = args.next().and_then(|a| a.parse().ok()).ok_or("an address and port are missing")?;
        let mut options = Self {
            role,
            address,
            layer: Layer::Own,
            cert: PathBuf::new(),
            key: PathBuf::new(),
            ca: PathBuf::new(),
            name: "db".into(),
            alpn: None,
            suite: None,
            with_finished: None,
            script: Vec::new(),
        };
        while let Some(option) = args.next() {
            let mut value = || args.next().ok_or_else(|| format!("{option} lacks its value"));
            match option.as_str() {
                "--plain" => options.layer = Layer::Plain,
                "--rustls" => options.layer = Layer::Rustls,
                "--cert" => options.cert = value()?.into(),
                "--key" => options.key = value()?.into(),
                "--ca" => options.ca = value()?.into(),
                "--name" => options.name = value()?,
                "--alpn" => options.alpn = Some(value()?),
                "--suite" => options.suite = Some(value()?),
                "--with-finished" => options.with_finished = Some(value()?),
                word => {
                    let action = Action::parse(word).ok_or_else(|| format!("no action `{word}`"))?;
                    options.script.push((word.to_owned(), action));
                }
            }
        }
        Ok(options)
    }
}
