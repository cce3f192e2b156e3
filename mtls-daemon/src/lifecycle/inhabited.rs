//! A cgroup without a process between two of them: systemd's `ExecStartPre=` has ended, and the unit's program is not there yet. The
//! namespaces that it was in stay entered for a while, or whatever it listens on next would be open until the next look.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// How long. The namespace of a container that is gone is kept alive for as long.
const LINGER: Duration = Duration::from_secs(30);

/// Where the processes of cgroups were, by the cgroup's ID.
#[derive(Debug, Default)]
pub(super) struct Inhabited(HashMap<u64, Seen>);

#[derive(Debug)]
struct Seen {
    /// Cookies of the namespaces.
    namespaces: Vec<u64>,
    at: Instant,
}

impl Inhabited {
    /// Takes down where its processes are now.
    pub(super) fn note(&mut self, cgroup: u64, namespace: u64, now: Instant) {
        let seen = self.0.entry(cgroup).or_insert_with(|| Seen { namespaces: Vec::new(), at: now });
        if seen.at != now {
            *seen = Seen { namespaces: Vec::new(), at: now };
        }
        seen.namespaces.push(namespace);
    }

    /// Where they were, if that is not long ago.
    pub(super) fn recently(&self, cgroup: u64, now: Instant) -> &[u64] {
        let seen = self.0.get(&cgroup).filter(|seen| now.duration_since(seen.at) < LINGER);
        seen.map_or(&[], |seen| &seen.namespaces)
    }

    /// Forgets what is too long ago: cgroups come and go.
    pub(super) fn forget(&mut self, now: Instant) {
        self.0.retain(|_, seen| now.duration_since(seen.at) < LINGER);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_look_counts_for_a_while() {
        let (mut inhabited, begin) = (Inhabited::default(), Instant::now());
        inhabited.note(1, 10, begin);
        inhabited.note(1, 11, begin);
        inhabited.note(2, 10, begin);
        let later = begin + LINGER / 2;
        inhabited.note(2, 12, later);
        assert_eq!(inhabited.recently(1, later), [10, 11]);
        assert_eq!(inhabited.recently(2, later), [12]);
        let late = begin + LINGER;
        inhabited.forget(late);
        assert!(inhabited.recently(1, late).is_empty() && inhabited.recently(3, late).is_empty());
        assert_eq!(inhabited.recently(2, late), [12]);
        assert_eq!(inhabited.0.len(), 1);
    }
}
