//! accept() that no program reported: the kernel may not run an fexit program where another thread was preempted inside it,
//! a thread that waited in accept() before the programs came is in none of them, io_uring accepts without the system
//! call, and the ring of events may be full. What was established and not reported is looked up: its inode says whether it
//! was accepted, and /proc by whom.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mtls_direct::{FourTuple, Owner, Socket};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::host::Host;
use crate::datapath::direct::drive::Told;
use crate::datapath::direct::hands;
use crate::lifecycle::daemon::lock;
use crate::sys::sock_diag;

/// Before the first look; each further one waits twice as long. An accept() that is reported is so within microseconds.
const FIRST: Duration = Duration::from_millis(50);
/// The longest wait between two looks.
const LONGEST: Duration = Duration::from_secs(1);
/// Looks that are due within this time are made together.
const TOGETHER: Duration = Duration::from_millis(10);
/// So often an accepted one is looked for in vain: its number comes a moment after its inode.
const SEARCHES: u32 = 4;

/// What a look at one socket said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    /// It waits for accept(), or the look failed.
    Waits,
    /// There is no such socket any more.
    Gone,
    /// Accepted, by whom.
    Accepted(Owner),
    /// Accepted, and no process of the namespace has it under a number.
    Nowhere,
}

#[derive(Debug, Clone, Copy)]
struct Wait {
    tuple: FourTuple,
    due: Instant,
    pause: Duration,
    searches: u32,
}

/// Established at its server and not reported as accepted.
#[derive(Default)]
pub(super) struct Unheard {
    waits: Mutex<HashMap<Socket, Wait>>,
    /// There is one, and there was none.
    some: Notify,
}

impl Unheard {
    /// One is established.
    pub fn expect(&self, socket: Socket, tuple: FourTuple) {
        let wait = Wait { tuple, due: Instant::now() + FIRST, pause: FIRST, searches: 0 };
        let mut waits = lock(&self.waits);
        waits.insert(socket, wait);
        if waits.len() == 1 {
            self.some.notify_one();
        }
    }

    /// It was reported, or is over.
    pub fn forget(&self, socket: Socket) {
        lock(&self.waits).remove(&socket);
    }

    /// Those whose look is due, and when the next one is.
    fn due(&self, now: Instant) -> (Vec<(Socket, FourTuple)>, Option<Instant>) {
        let waits = lock(&self.waits);
        let due =
            waits.iter().filter(|(_, wait)| wait.due <= now).map(|(socket, wait)| (*socket, wait.tuple));
        (due.collect(), waits.values().map(|wait| wait.due).min())
    }

    /// Takes what a look said. What the driver has to be told.
    fn saw<S>(&self, now: Instant, socket: Socket, seen: Seen) -> Option<Told<S>> {
        let mut waits = lock(&self.waits);
        let wait = waits.get_mut(&socket)?;
        let tuple = wait.tuple;
        wait.pause = (wait.pause * 2).min(LONGEST);
        wait.due = now + wait.pause;
        let told = match seen {
            Seen::Waits => return None,
            Seen::Gone => None,
            Seen::Accepted(owner) => Some(Told::Accepted { socket, tuple, owner }),
            Seen::Nowhere => {
                wait.searches += 1;
                if wait.searches < SEARCHES {
                    return None;
                }
                Some(Told::Unreachable(socket))
            }
        };
        waits.remove(&socket);
        told
    }
}

/// Looks for as long as the daemon runs.
pub(super) async fn watch(host: Arc<Host>) {
    loop {
        let now = Instant::now();
        let (due, next) = host.unheard.due(now);
        if due.is_empty() {
            match next {
                Some(next) => tokio::time::sleep_until(next.max(now + TOGETHER)).await,
                None => host.unheard.some.notified().await,
            }
            continue;
        }
        let looking = Arc::clone(&host);
        // /proc of a node with many processes takes milliseconds.
        let looked = tokio::task::spawn_blocking(move || {
            for (socket, tuple) in due {
                let seen = looking.look_at(socket, tuple);
                if let Some(told) = looking.unheard.saw(Instant::now(), socket, seen) {
                    tracing::debug!(client = %tuple.client, server = %tuple.server, ?seen, "an accept() was not reported");
                    looking.tell(told);
                }
            }
        });
        if looked.await.is_err() {
            tracing::error!("looking for unreported accept() failed: it is tried again");
            tokio::time::sleep(LONGEST).await;
        }
    }
}

impl Host {
    fn look_at(&self, socket: Socket, tuple: FourTuple) -> Seen {
        let Some(place) = self.place(socket.netns) else { return Seen::Gone };
        let inode = place.netns.run(|| sock_diag::inode(tuple.server, tuple.client, socket.cookie));
        match inode {
            Ok(None) => Seen::Gone,
            Ok(Some(0)) => Seen::Waits,
            Ok(Some(inode)) => match hands::of_inode(inode, place.netns.identity()) {
                Some((pid, fd)) => Seen::Accepted(Owner { pid, fd }),
                None => Seen::Nowhere,
            },
            Err(error) => {
                tracing::debug!(%error, "sock_diag does not say whether a connection was accepted");
                Seen::Waits
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOCKET: Socket = Socket { netns: 1, cookie: 2 };

    fn tuple() -> FourTuple {
        FourTuple { client: "10.0.0.1:1000".parse().unwrap(), server: "10.0.0.2:80".parse().unwrap() }
    }

    /// One that waits, and when it was established.
    fn waiting() -> (Unheard, Instant) {
        let unheard = Unheard::default();
        unheard.expect(SOCKET, tuple());
        let (none, next) = unheard.due(Instant::now() - FIRST);
        assert!(none.is_empty(), "a report is not overtaken");
        (unheard, next.unwrap() - FIRST)
    }

    #[test]
    fn looks_become_rare() {
        let (unheard, start) = waiting();
        let mut at = Vec::new();
        while let (_, Some(next)) = unheard.due(start)
            && next < start + Duration::from_secs(5)
        {
            assert_eq!(unheard.due(next).0, [(SOCKET, tuple())]);
            assert!(unheard.saw::<()>(next, SOCKET, Seen::Waits).is_none());
            at.push((next - start).as_millis());
        }
        assert_eq!(at, [50, 150, 350, 750, 1550, 2550, 3550, 4550]);
    }

    #[test]
    fn what_was_accepted_is_told_once_and_what_is_gone_or_reported_not() {
        let (unheard, now) = waiting();
        let owner = Owner { pid: 7, fd: 5 };
        let told = unheard.saw::<()>(now, SOCKET, Seen::Accepted(owner));
        assert!(
            matches!(told, Some(Told::Accepted { socket: SOCKET, tuple: of, owner: by }) if of == tuple() && by == owner)
        );
        assert!(unheard.saw::<()>(now, SOCKET, Seen::Accepted(owner)).is_none());
        let (unheard, now) = waiting();
        assert!(unheard.saw::<()>(now, SOCKET, Seen::Gone).is_none());
        assert_eq!(unheard.due(now), (Vec::new(), None));
        let (unheard, now) = waiting();
        unheard.forget(SOCKET);
        assert!(unheard.saw::<()>(now, SOCKET, Seen::Accepted(owner)).is_none(), "while it was looked at");
    }

    #[test]
    fn what_is_found_nowhere_is_searched_some_times_before_it_is_given_up() {
        let (unheard, now) = waiting();
        for _ in 1..SEARCHES {
            assert!(unheard.saw::<()>(now, SOCKET, Seen::Nowhere).is_none());
        }
        let told = unheard.saw::<()>(now, SOCKET, Seen::Nowhere);
        assert!(matches!(told, Some(Told::Unreachable(SOCKET))));
        assert_eq!(unheard.due(now), (Vec::new(), None));
    }

    #[tokio::test]
    async fn the_watch_is_woken_by_the_first_one() {
        let (unheard, _) = waiting();
        tokio::time::timeout(Duration::from_secs(10), unheard.some.notified()).await.unwrap();
    }
}
