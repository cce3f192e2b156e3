//! What the programs report, for the driver.

use mtls_common::Role;
use mtls_direct::{Counts, FourTuple, Owner, Socket};

use super::client::Held;
use super::opened::{key_is_used_up, violation};
use crate::capture::{Caller, CaptureEvent, DirectEvent};
use crate::datapath::direct::drive::Told;
use crate::lifecycle::daemon::{Daemon, lock};

/// What the programs report.
pub(in crate::lifecycle) fn event(daemon: &Daemon, event: &CaptureEvent, what: DirectEvent) {
    let Some(host) = daemon.direct_host() else { return };
    let socket = Socket { netns: event.netns, cookie: event.cookie };
    let server = event.destination;
    let tuple = |client| FourTuple { client, server };
    let owner = |caller: Caller| Owner { pid: caller.pid, fd: caller.descriptor };
    match what {
        DirectEvent::Syn { syn, again, caller } => {
            let Some(place) = lock(&daemon.node).place(event.netns) else { return };
            if again {
                return host.syn_again(&place, socket, &syn);
            }
            host.syn(
                &place,
                Held { workload: event.workload, socket, to: server, syn, owner: owner(caller) },
            );
        }
        DirectEvent::Established { client, role } => {
            if role == Role::Server {
                host.unheard.expect(socket, tuple(client));
            }
            host.tell(Told::Established { socket, tuple: tuple(client) })
        }
        DirectEvent::Accepted { client, caller } => {
            host.unheard.forget(socket);
            host.tell(Told::Accepted { socket, tuple: tuple(client), owner: owner(caller) });
        }
        DirectEvent::Ended { sent, received, .. } => {
            host.unheard.forget(socket);
            let counts = Counts { sent, received };
            if !host.left_ended(socket.cookie, counts) {
                host.tell(Told::Ended { socket, counts });
            }
        }
        DirectEvent::KeyLimit { client } => host.cut(socket, tuple(client), key_is_used_up()),
        DirectEvent::Violation { client } => {
            tracing::error!(%client, %server, "what came first on a direct connection was no TLS record: it is cut");
            host.cut(socket, tuple(client), violation());
        }
    }
}
