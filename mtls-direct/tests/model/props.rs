//! What must hold in every state.
use stateright::Property;

use super::world::{A, Content, Daemon, Direct, Socket, World};

/// No application's plaintext passes a guard onto the wire.
pub const LEAK: &str = "P1 no plaintext on the wire";
/// No ciphertext and nothing of the attacker's is read by an application.
pub const READ: &str = "P2 nothing unverified is read";
/// What is read is a prefix of what was sent.
pub const PREFIX: &str = "P3 a prefix of what was sent";
/// Where nothing happens by itself any more, no socket is held and no side is alone.
pub const STUCK: &str = "P4 nothing is stuck";
/// After both writers were let go, only the applications, a lease or the network end the connection.
pub const LIVES: &str = "P5 released connections need no daemon";
/// No machine that is over owns a descriptor or an entry in EXPECTED.
pub const LEFT: &str = "P6 nothing is left behind";
/// An end is read only after every byte that the other side sent. Holds against all but a forged FIN.
pub const END: &str = "P7 no end before the end";
/// Whoever can read a request can answer it.
pub const ANSWERS: &str = "P8 no server reads while it is held";
/// Not vacuous: every byte of both directions can arrive.
pub const REACHED: &str = "R1 every byte arrives";
/// Not vacuous: an early writer's bytes can be on the wire before the server has accepted.
pub const LEAVES: &str = "R2 early bytes wait for accept()";

impl World {
    /// Whether a state in which nothing more happens by itself is a good one.
    fn rests(&self, direct: &Direct) -> bool {
        let good = self.side.iter().all(|side| match side.socket {
            Socket::None | Socket::Gone => side.daemon.is_over(),
            Socket::Up => side.tls && side.open && !side.held && !side.dup,
            Socket::Opening | Socket::Queued => false,
        });
        // After a forged RST the other side learns of it as with plain TCP: with its next segment.
        let together = direct.attacker || self.side[0].alive() == self.side[1].alive();
        good && together && !self.expected
    }
}

pub fn all() -> Vec<Property<Direct>> {
    vec![
        Property::always(LEAK, |_, w: &World| !w.broken.contains(&LEAK)),
        Property::always(READ, |_, w: &World| !w.broken.contains(&READ)),
        Property::always(PREFIX, |_, w: &World| !w.broken.contains(&PREFIX)),
        Property::always(LIVES, |_, w: &World| !w.broken.contains(&LIVES)),
        Property::always(END, |_, w: &World| !w.broken.contains(&END)),
        Property::always(ANSWERS, |_, w: &World| !w.broken.contains(&ANSWERS)),
        Property::always(STUCK, |direct: &Direct, w: &World| {
            if !w.broken.is_empty() || w.rests(direct) {
                return true;
            }
            let mut acts = Vec::new();
            direct.system(w, &mut acts);
            !acts.is_empty()
        }),
        Property::always(LEFT, |_, w: &World| {
            let expecting = matches!(w.side[1].daemon, Daemon::Server(_)) && !w.side[1].daemon.is_over();
            let dead = w.side[1].daemon == Daemon::Dead;
            (!w.expected || expecting || dead)
                && w.side
                    .iter()
                    .all(|side| !side.dup || (side.daemon.has_machine() && !side.daemon.is_over()))
        }),
        Property::sometimes(REACHED, |direct: &Direct, w: &World| {
            (0..2).all(|i| w.side[1 - i].read == direct.length[i])
        }),
        Property::sometimes(LEAVES, |_, w: &World| {
            w.side[1].socket == Socket::Queued
                && matches!(w.side[A].sent.first(), Some(Content::Tls(_)))
                && w.side[A].passed > 0
        }),
    ]
}
