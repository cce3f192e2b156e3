//! The server's side: whether a connection that another daemon opens may be direct.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use mtls_direct::{About, FourTuple, Nonce, Reason as Why};

use super::host::Host;
use super::opened::{Admitted, Opened, is_of_identity, note_session};
use crate::config::{DirectChoice, Mode};
use crate::datapath::direct::drive::LinkId;
use crate::datapath::direct::session::LinkEnd;
use crate::datapath::relay::Gate;
use crate::flows::Channel;
use crate::identity::PeerIdentity;
use crate::lifecycle::daemon::lock;
use crate::observe::Refusal;
use crate::observe::connection::{Direction, Ending};
use crate::snapshot::{Snapshot, WorkloadState, number_of};

impl Host {
    /// The workload of this node that has the address and port, and the namespace that it has to itself.
    pub fn server(&self, snapshot: &Snapshot, to: SocketAddr) -> Option<(Arc<WorkloadState>, u64)> {
        let destination = snapshot.directory.lookup(to.ip(), to.port())?;
        let name = destination.local_workload.as_deref()?;
        let (state, number) = (snapshot.by_name(name)?, number_of(name));
        let node = lock(&self.daemon.node);
        let mut places = node.places();
        let place = places.find(|place| {
            place.held_for_direct.load(Ordering::Acquire) && place.owners.load().of(to.port()) == Some(number)
        })?;
        Some((Arc::clone(state), place.cookie))
    }

    /// Policy, mode and memory; what it admits has a record from now on.
    pub async fn judge(&self, about: About<LinkId>) -> Result<(u64, Nonce), Why> {
        let tuple = about.id.tuple;
        let peer = self.links.peer(about.link).ok_or(Why::SessionLost)?;
        let snapshot = self.relay().snapshot.load_full();
        let (workload, netns) = self.server(&snapshot, tuple.server).ok_or(Why::NotCapable)?;
        let settings = &workload.settings;
        let port = tuple.server.port();
        // What failed here before is for the client's daemon to remember, which heard of it: refused now, the application
        // would see a failure and not a relay.
        if settings.direct_of_port(port) == DirectChoice::Never
            || settings.mode_of_port(port) == Mode::Disabled
        {
            return Err(Why::NotCapable);
        }
        let observed = self.observe(&workload, Direction::Inbound, tuple);
        note_session(&observed, &workload, &peer);
        let gate = Gate {
            mode: settings.mode_of_port(port),
            port,
            from: tuple.client.ip(),
            to: tuple.server.ip(),
            calls: Arc::clone(&self.relay().external),
            snapshot: Arc::clone(&snapshot),
            workload: Arc::clone(&workload),
            connection: observed.shared(),
            flows: Arc::clone(&self.relay().flows),
        };
        let admitted = match self.admit_inbound(&gate, tuple, &peer.identity).await {
            Ok(admitted) => admitted,
            Err(refusal) => {
                if is_of_identity(refusal.reason) {
                    self.links.end(about.link, LinkEnd::LeaseEnded);
                }
                observed.end(Ending::Refused(refusal));
                return Err(Why::Denied);
            }
        };
        let nonce = self.nonce().ok_or(Why::Busy)?;
        self.enter(Opened::new(about.name(), observed, &workload, admitted));
        Ok((netns, nonce))
    }

    async fn admit_inbound(
        &self,
        gate: &Gate,
        tuple: FourTuple,
        peer: &Arc<PeerIdentity>,
    ) -> Result<Admitted, Refusal> {
        let permit = self.permit(&gate.snapshot, &gate.workload)?;
        gate.admit(Some(peer), Channel::MutualTls)?;
        gate.ask(Some(peer)).await?;
        Ok((permit, self.lease(&gate.workload, Direction::Inbound, tuple, Arc::clone(peer))?))
    }
}
