//! Is it reachable over TCP, from the workload's own namespace?

use std::io;
use std::net::SocketAddr;
use std::time::Instant;

use nix::errno::Errno;
use tokio::net::TcpStream;

use super::Live;
use super::report::{Evidence, Stopped, Walk};
use super::step::Question;
use crate::datapath::relay::dial;
use crate::observe::{Reason, Refusal};

impl Live<'_> {
    /// Tries one address after the other until one takes the connection; all of them within the time limit.
    pub(super) async fn reach(
        &self,
        walk: &mut Walk,
        addresses: &[SocketAddr],
    ) -> Result<TcpStream, Stopped> {
        let started = Instant::now();
        let mut tried = Vec::new();
        let mut last = Refusal::from(Reason::DialTimeout);
        for to in addresses {
            let left = self.limit.saturating_sub(started.elapsed());
            if left.is_zero() {
                tried.push(format!("{to}: not tried, the time was over"));
                continue;
            }
            walk.address = Some(*to);
            let begun = Instant::now();
            last = match tokio::time::timeout(left, (self.dial)(*to)).await {
                Ok(Ok(tcp)) => {
                    let local = tcp.local_addr().map(|local| format!(" from {local}")).unwrap_or_default();
                    let evidence = Evidence { lines: tried, took: Some(begun.elapsed()) };
                    walk.passed(Question::Tcp, format!("{to} took the connection{local}"), evidence);
                    return Ok(tcp);
                }
                Ok(Err(error)) => {
                    tried.push(format!("{to}: {}", told(&error)));
                    dial::refusal(*to, &error)
                }
                Err(_) => {
                    let detail = format!("no answer to SYN from {to} within {left:.1?}");
                    tried.push(format!("{to}: no answer within {left:.1?} (as ETIMEDOUT)"));
                    Refusal::new(Reason::DialTimeout, detail)
                }
            };
        }
        let evidence = Evidence { lines: tried, took: Some(started.elapsed()) };
        Err(walk.refused(Question::Tcp, &last, evidence))
    }
}

/// The errno by its name.
fn told(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(number) => {
            let errno = Errno::from_raw(number);
            format!("{errno:?} ({})", errno.desc())
        }
        None => error.to_string(),
    }
}
