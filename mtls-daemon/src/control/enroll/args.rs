//! Arguments of `mtlsd enroll` and `mtlsd unenroll`.

use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use clap::Args;

use super::{DEFAULT_CONFIRM, EnrolMode, EnrolRequest, UnenrolRequest, Waited};
use crate::config::UnitName;
use crate::control::ca_cli::lifetime;
use crate::control::cli::AskOptions;
use crate::control::client::{AdminClient, ClientError};

/// Arguments of `mtlsd enroll`.
#[derive(Debug, Args)]
pub struct EnrolArgs {
    /// What: unit:NAME, a service, scope or slice of systemd, such as unit:nginx.service
    #[arg(value_name = "WHAT", value_parser = what)]
    pub what: UnitName,
    /// Name of the workload, and of its identity [default: the unit's]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// What its ports ask of whoever connects
    #[arg(long, value_enum, default_value_t = EnrolMode::Permissive)]
    pub mode: EnrolMode,
    /// Its ports, separated by commas [default: learned from the kernel]
    #[arg(long, value_name = "PORTS", value_delimiter = ',')]
    pub listen_ports: Vec<u16>,
    /// Undo it after so long unless `mtlsd confirm` is run, or `off` [default: 60s for strict over ssh, else off]
    #[arg(long, value_name = "DURATION")]
    pub confirm_within: Option<Within>,
    /// Only say what would be done
    #[arg(long)]
    pub dry_run: bool,
    /// Where and how.
    #[command(flatten)]
    pub options: AskOptions,
}

/// How long a change waits for `mtlsd confirm`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Within {
    /// It does not.
    Off,
    /// So long.
    Time(Duration),
}

impl FromStr for Within {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "off" { Ok(Self::Off) } else { lifetime(text).map(Self::Time) }
    }
}

fn what(text: &str) -> Result<UnitName, String> {
    let unit = text.strip_prefix("unit:").ok_or("write unit:NAME, such as unit:nginx.service")?;
    unit.parse().map_err(|error: crate::config::UnitError| error.to_string())
}

impl EnrolArgs {
    /// The question to the daemon. `ssh`: SSH_CONNECTION (sshd(8)), "client's address, its port, …".
    #[must_use]
    pub fn request(&self, ssh: Option<&str>) -> EnrolRequest {
        let managed_from = ssh.and_then(|text| text.split(' ').next()?.parse::<IpAddr>().ok());
        let within = match (self.confirm_within, self.mode) {
            (Some(Within::Off), _) => None,
            (Some(Within::Time(time)), _) => Some(time),
            (None, EnrolMode::Strict) => managed_from.map(|_| DEFAULT_CONFIRM),
            (None, EnrolMode::Permissive) => None,
        };
        EnrolRequest {
            unit: self.what.to_string(),
            name: self.name.clone(),
            mode: self.mode,
            listen_ports: self.listen_ports.clone(),
            // Loopback is never captured.
            managed_from: managed_from.filter(|address| !address.is_loopback()),
            confirm_within: within.map(|time| time.as_secs()),
            dry_run: self.dry_run,
        }
    }
}

/// Arguments of `mtlsd wait-enrolled`.
#[derive(Debug, Args)]
pub struct WaitArgs {
    /// The workload
    #[arg(value_name = "NAME")]
    pub name: String,
    /// At most so long
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = lifetime)]
    pub timeout: Duration,
    /// Where and how.
    #[command(flatten)]
    pub options: AskOptions,
}

/// The daemon is had to look, each time.
const BETWEEN: Duration = Duration::from_millis(100);

impl WaitArgs {
    /// Has the daemon look until it is enrolled or the time is over; gives how it stood last. What the daemon has seen before does
    /// not count: a unit that starts again has another cgroup.
    ///
    /// # Errors
    /// When the daemon does not answer.
    pub async fn wait(&self, client: &AdminClient) -> Result<Waited, ClientError> {
        let until = tokio::time::Instant::now() + self.timeout;
        loop {
            let found = client.look().await?.into_iter().find(|one| one.name == self.name);
            let waited = Waited::of(&self.name, found.as_ref());
            if waited.holds() || tokio::time::Instant::now() >= until {
                return Ok(waited);
            }
            tokio::time::sleep(BETWEEN).await;
        }
    }
}

/// Arguments of `mtlsd unenroll`.
#[derive(Debug, Args)]
pub struct UnenrolArgs {
    /// The workload, as `mtlsd list` names it
    #[arg(value_name = "NAME")]
    pub name: String,
    /// Where and how.
    #[command(flatten)]
    pub options: AskOptions,
}

impl UnenrolArgs {
    /// The question to the daemon.
    #[must_use]
    pub fn request(&self) -> UnenrolRequest {
        UnenrolRequest { name: self.name.clone() }
    }
}
