//! `mtlsd diagnose`: walks the decision tree that people walk by hand, with a real connection from the workload's own
//! namespace, and stops at the first question that fails.
//!
//! The connection is made as the relay makes one, with the same verifier and the same key: what it proves and to whom is what any
//! connection of the workload proves. No byte of an application is sent. Everything that comes back is bounded in bytes and time.

mod address;
mod asks;
mod before;
mod chain;
mod reach;
mod report;
mod request;
mod speaks;
mod step;
mod talk;
#[cfg(test)]
mod tests;
mod verdict;

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use tokio::net::TcpStream;

pub use report::{DOES_NOT_APPLY, LiveReport, LiveStep, Outcome};
pub use request::{LIMIT, LiveError, LiveRequest, MAX_LIMIT, MIN_LIMIT};
pub use step::Question;

use super::Ground;
use crate::datapath::ktls::Suite;
use crate::directory::Destination;
use crate::handshake::Records;
use crate::identity::SpiffeId;
use crate::observe::connection::Datapath;
use crate::observe::{Reason, Refusal};
use crate::snapshot::{OwnIdentity, WorkloadState};
use address::Host;
use before::Way;
use report::{Evidence, Stopped, Walk};
use talk::Talk;

/// A connection under way.
pub type Dialling = Pin<Box<dyn Future<Output = io::Result<TcpStream>> + Send>>;

/// Tells the datapath of a workload's connections with a suite, and why not a better one.
pub type ExpectedDatapath<'a> =
    dyn Fn(&WorkloadState, Option<Suite>) -> (Datapath, Option<String>) + Sync + 'a;

/// What a diagnosis is made with.
pub struct Live<'a> {
    /// What connections are decided on.
    pub ground: Ground<'a>,
    /// As which workload.
    pub client: Arc<WorkloadState>,
    /// Whom the server must prove to be, in place of what the directory says.
    pub expect: Option<&'a SpiffeId>,
    /// For each wait.
    pub limit: Duration,
    /// Connects from the workload's namespace, past the capture.
    pub dial: &'a (dyn Fn(SocketAddr) -> Dialling + Sync),
    /// The datapath of a connection of this workload with this suite, and why not a better one.
    pub datapath: &'a ExpectedDatapath<'a>,
}

/// Asks every question about a connection to `to`, up to the first that fails.
///
/// # Errors
/// `to` is no host and port.
pub async fn live(live: &Live<'_>, to: &str) -> Result<LiveReport, LiveError> {
    let host = Host::parse(live.ground.snapshot, to)?;
    let mut walk = Walk::default();
    // What stops is in the walk.
    let _stopped = live.walk(&mut walk, &host).await;
    let client = &live.client;
    Ok(walk.report(&client.settings.name, &client.spiffe_id, to, live.ground.snapshot.generation))
}

impl Live<'_> {
    async fn walk(&self, walk: &mut Walk, host: &Host<'_>) -> Result<(), Stopped> {
        self.workload(walk)?;
        let mut addresses = self.addresses(walk, host).await?;
        let destination = match self.destination(walk, host, &mut addresses)? {
            Way::Untouched => return self.reach(walk, &addresses).await.map(drop),
            Way::Tls(destination) => destination,
        };
        let own = self.identity(walk)?;
        let Some(first) = addresses.first().copied() else { return Err(Stopped) };
        self.connect_policy(walk, &destination, first)?;
        let tcp = self.reach(walk, &addresses).await?;
        let to = walk.address.unwrap_or(first);
        self.tls(walk, tcp, to, &destination, own).await
    }

    async fn tls(
        &self,
        walk: &mut Walk,
        tcp: TcpStream,
        to: SocketAddr,
        destination: &Destination,
        own: &OwnIdentity,
    ) -> Result<(), Stopped> {
        let expected = before::expected(destination);
        let name = ServerName::IpAddress(to.ip().into());
        let started =
            own.tls.watched_client(Arc::clone(&expected)).map_err(|error| error.to_string()).and_then(
                |(config, watched)| {
                    let records = Records::client(config, name).map_err(|error| error.to_string())?;
                    Ok((records, watched))
                },
            );
        let (records, watched) = started.map_err(|error| {
            walk.refused(Question::Tls, &Refusal::new(Reason::Internal, error), Evidence::default())
        })?;
        walk.protected = true;
        let mut talk = Talk::new(tcp, records);
        let started = Instant::now();
        let shaken = talk.handshake(self.limit).await;
        let took = started.elapsed();
        let judged = speaks::speaks(walk, &talk, &shaken, &watched, took)
            .and_then(|()| asks::asks(walk, &watched, &own.tls))
            .and_then(|()| chain::chain(walk, &shaken, &watched, own.tls.trust(), &expected))
            .and_then(|()| self.policy_here(walk, &watched, to));
        if judged.is_err() {
            talk.end(self.limit).await;
            return judged;
        }
        self.their_verdict(walk, talk, shaken, &watched).await
    }
}
