//! The loops that start connections: events of the ring, and the listeners of each namespace.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use tokio::net::{TcpListener, TcpStream};

use super::daemon::{Daemon, lock};
use super::enclosures;
use crate::capture::events::What;
use crate::capture::{CaptureEvent, EventStream, Listeners};
use crate::config::Unknown;
use crate::datapath::listen::recover;
use crate::datapath::relay::carrier::NotDirect;
use crate::datapath::relay::{Place, Relay, authorise, inbound, outbound};
use crate::observe::connection::{Direction, Ending};
use crate::observe::observer::Captured;
use crate::observe::{Reason, Refusal};

/// Handles events until the daemon ends.
pub async fn events(daemon: Arc<Daemon>, mut events: EventStream) {
    loop {
        if let Err(error) = events.next(|event| handle(&daemon, event)).await {
            tracing::error!(%error, "the ring of events cannot be read; held connections will time out");
            return;
        }
    }
}

fn handle(daemon: &Arc<Daemon>, event: CaptureEvent) {
    match event.what {
        What::Held { syn, again, unreported } => {
            let Some(place) = lock(&daemon.node).place(event.netns) else {
                return;
            };
            if let Some(gone) = place.hold(event.cookie, &syn, again) {
                let held = outbound::Held {
                    cookie: event.cookie,
                    workload: event.workload,
                    destination: event.destination,
                    syn,
                    gone,
                    not_direct: if unreported { NotDirect::Unreported } else { NotDirect::NoSession },
                };
                daemon.want_direct(event.workload, event.destination);
                tokio::spawn(outbound::carry(Arc::clone(&daemon.relay), place, held));
            }
        }
        What::Abandoned => {
            if let Some(place) = lock(&daemon.node).place(event.netns) {
                place.forget(event.cookie);
            }
        }
        What::DeniedPolicy => refused(&daemon.relay, &event, Reason::PolicyDenied),
        What::DeniedUnknown => refused(&daemon.relay, &event, Reason::UnknownDestination),
        What::NotEntered => daemon.look_now.notify_one(),
        What::Unaccounted => refused(&daemon.relay, &event, Reason::Unaccounted),
        What::DeniedSource { from } => refused_source(&daemon.relay, &event, from),
        What::Direct(ref what) => super::direct::event(daemon, &event, what.clone()),
        What::Unclassified { pid, from } => {
            daemon.look_now.notify_one();
            enclosures::refused(&daemon.relay, &event, pid, from);
        }
    }
}

/// Records what the programs refused by themselves.
fn refused(relay: &Arc<Relay>, event: &CaptureEvent, reason: Reason) {
    let snapshot = relay.snapshot.load();
    let Some(workload) = snapshot.workloads.get(&event.workload) else {
        return;
    };
    let to = event.destination;
    let observed = relay.observer.begin(
        &workload.metrics,
        Captured {
            direction: Direction::Outbound,
            local_identity: Some(Arc::clone(&workload.spiffe_id)),
            // The source address is not chosen yet when connect() is refused.
            source: unspecified(to),
            destination: to,
        },
    );
    let mut refusal = Refusal::new(reason, format!("at connect() to {to}"));
    if reason == Reason::PolicyDenied
        && let Some(destination) = snapshot.directory.lookup(to.ip(), to.port())
        && let Some(denial) = snapshot.denied_early(workload, destination, to.port(), Some(to.ip()))
    {
        let between = format!("{} to {} port {}", workload.settings.spiffe_id, destination.name, to.port());
        authorise::note_denied(
            &relay.flows,
            &workload.settings,
            to,
            &denial.rule(),
            denial.verdict.refusal_reason(),
        );
        refusal = authorise::early_refusal(observed.connection(), &denial, &between, "at connect()");
        let server = destination.local_workload.as_deref().and_then(|name| snapshot.by_name(name));
        observed.connection().learn(|learned| {
            learned.destination_name = Some(Arc::clone(&destination.name));
            learned.peer_identity = server.map(|server| Arc::clone(&server.spiffe_id));
        });
    }
    if reason == Reason::UnknownDestination {
        let unknown = snapshot.unknown(&workload.settings, to);
        if unknown == Unknown::DeniedInside {
            refusal = Refusal::new(
                reason,
                format!("at connect() to {to}: nothing is known of this address of the cluster"),
            );
        }
        authorise::note_denied(&relay.flows, &workload.settings, to, unknown.rule(), reason);
    }
    observed.end(Ending::Refused(refusal));
}

/// What stands for a source that is not chosen yet, in the family of the destination.
pub(super) fn unspecified(to: SocketAddr) -> SocketAddr {
    match to {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    }
}

/// Records a SYN that the programs refused for where it came from.
fn refused_source(relay: &Arc<Relay>, event: &CaptureEvent, from: SocketAddr) {
    let snapshot = relay.snapshot.load();
    let Some(workload) = snapshot.workloads.get(&event.workload) else {
        return;
    };
    let to = event.destination;
    let observed = relay.observer.begin(
        &workload.metrics,
        Captured {
            direction: Direction::Inbound,
            local_identity: Some(Arc::clone(&workload.spiffe_id)),
            source: from,
            destination: to,
        },
    );
    let between = format!("{} to {} port {}", from.ip(), workload.settings.name, to.port());
    let refusal = match snapshot.denied_source(workload, to.port(), from.ip()) {
        Some(denial) => {
            authorise::note_denied_source(&relay.flows, &workload.settings, (from.ip(), to.port()), &denial);
            authorise::early_refusal(observed.connection(), &denial, &between, "at the SYN")
        }
        // The policy has changed since.
        None => Refusal::new(Reason::PolicyDenied, format!("{between}, at the SYN")),
    };
    observed.end(Ending::Refused(refusal));
}

/// Accepts on every listener of a namespace until the daemon leaves it.
///
/// # Errors
/// When a listener cannot be polled.
pub fn accept(relay: &Arc<Relay>, place: &Arc<Place>, listeners: Listeners) -> std::io::Result<()> {
    let Listeners { outbound_v4, outbound_v6, inbound_v4, inbound_v6 } = listeners;
    for listener in [Some(outbound_v4), outbound_v6].into_iter().flatten() {
        let arrives_at = Arc::clone(place);
        let captured = move |stream, from| arrives_at.arrived(from, stream);
        tokio::spawn(accept_each(Arc::clone(place), TcpListener::from_std(listener)?, captured));
    }
    for listener in [Some(inbound_v4), inbound_v6].into_iter().flatten() {
        let own = listener.local_addr().ok();
        let (relay, at) = (Arc::clone(relay), Arc::clone(place));
        let steered = move |stream: TcpStream, from| {
            // Steered connections keep their own destination; one without came to our port directly.
            if stream.local_addr().ok() != own {
                tokio::spawn(inbound::receive(Arc::clone(&relay), Arc::clone(&at), stream, from));
            }
        };
        tokio::spawn(accept_each(Arc::clone(place), TcpListener::from_std(listener)?, steered));
    }
    Ok(())
}

/// Hands over each connection; one that is dropped is reset.
async fn accept_each(place: Arc<Place>, listener: TcpListener, handle: impl Fn(TcpStream, SocketAddr)) {
    let mut left = place.left.subscribe();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = left.wait_for(|left| *left) => return,
        };
        match accepted {
            Ok((stream, from)) => {
                outbound::reset(&stream);
                handle(stream, from);
            }
            Err(error) => recover(&error, "a connection").await,
        }
    }
}
