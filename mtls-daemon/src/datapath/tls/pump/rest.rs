//! A connection on which nobody speaks keeps its secrets, and gives the ciphers made of them back: 1.2 KB, a quarter of what
//! it costs.

use std::pin::Pin;
use std::task::Context;
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep};

use crate::datapath::tls::UserChannel;

/// After so long without a byte, or up to twice as long, the ciphers are given back. To make them again takes some ten
/// microseconds.
#[cfg(not(test))]
const AFTER: Duration = Duration::from_secs(2);
/// So that every test of the pump has its connections rest now and then.
#[cfg(test)]
const AFTER: Duration = Duration::from_millis(1);

/// When to look whether anybody has spoken.
#[derive(Default)]
pub struct Rest {
    /// Only while there is something to give back. Boxed: it has a tenth of a resting connection's size.
    look: Option<Pin<Box<Sleep>>>,
    /// Somebody has since the last look.
    spoke: bool,
}

impl Rest {
    /// Somebody speaks.
    pub fn disturb(&mut self) {
        self.spoke = true;
    }

    /// To be called when the connection waits for its sockets.
    pub fn poll(&mut self, channel: &mut UserChannel, cx: &mut Context<'_>) {
        if channel.is_resting() {
            return;
        }
        let look = self.look.get_or_insert_with(|| Box::pin(sleep(AFTER)));
        // Not anew for each byte: a timer that is moved costs more than one that fires for nothing.
        while look.as_mut().poll(cx).is_ready() {
            if !std::mem::take(&mut self.spoke) {
                channel.rest();
                self.look = None;
                return;
            }
            look.as_mut().reset(Instant::now() + AFTER);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::datapath::tests::ends::{Peer, in_time, observed, records, tcp, user_pump};

    #[tokio::test]
    async fn a_connection_rests_whenever_nobody_speaks_and_goes_on_when_somebody_does() {
        let observed: &'static _ = Box::leak(Box::new(observed()));
        let ((mut application, at_pump), (tcp, from_peer)) = (tcp().await, tcp().await);
        let (client, server) = records();
        let mut peer = Peer { tcp, records: client, incoming: Vec::new() };
        let mut pump = user_pump(at_pump, from_peer, server, observed);
        for round in 0..3 {
            let moving = tokio::time::timeout(AFTER * 50, pump.run());
            let speaking = async {
                peer.send(b"ask").await;
                let mut asked = [0; 3];
                in_time(application.read_exact(&mut asked)).await.unwrap();
                assert_eq!(&asked, b"ask");
                application.write_all(b"answer").await.unwrap();
            };
            let (moved, ()) = tokio::join!(moving, speaking);
            assert!(moved.is_err(), "round {round}: it waits for more: {moved:?}");
            assert!(pump.flow.channel.is_resting(), "round {round}");
            assert!(pump.flow.rest.look.is_none(), "round {round}");
        }
        let moving = tokio::spawn(async move {
            let result = pump.run().await.map(|_| ());
            pump.end(&result);
            result
        });
        application.shutdown().await.unwrap();
        let end = peer.close_notify();
        peer.tcp.write_all(&end).await.unwrap();
        assert_eq!(peer.read_all().await, Ok(b"answer".repeat(3)));
        in_time(moving).await.unwrap().unwrap();
    }
}
