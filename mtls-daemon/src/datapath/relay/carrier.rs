//! What carries a connection once both ends are there: the kernel's TLS if it can be had, else rustls.

use std::borrow::Cow;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::watch;

use super::pump::Pump;
use super::session::{NotTaken, Session};
use crate::datapath::PumpError;
use crate::datapath::ends::idle_for;
use crate::datapath::ktls::{ChannelError, KernelPump, Terms};
use crate::observe::connection::Datapath;
use crate::observe::observer::Observed;

/// A pump of either kind.
pub enum Carrier<'a> {
    /// relay-userspace, and everything that is not TLS of ours.
    UserSpace(Pump<'a>),
    /// relay-ktls.
    Kernel(KernelPump<'a>),
}

impl<'a> Carrier<'a> {
    /// Takes the best datapath that `terms` allows, and notes which and why not a better one.
    ///
    /// # Errors
    /// When the kernel took only half of the connection: it is lost, and both ends are reset.
    pub fn new(
        session: Session,
        application: TcpStream,
        observed: &'a Observed,
        terms: Result<Terms, Cow<'static, str>>,
    ) -> Result<Self, ChannelError> {
        let (session, why) = match terms {
            Err(why) => (session, why),
            Ok(terms) => match session.into_kernel(&terms) {
                Ok(taken) => {
                    let why = "direct is not part of this version of mtlsd";
                    observed.established(Datapath::RelayKtls, Some(why.into()));
                    let pump =
                        KernelPump::new(application, taken.tcp, taken.channel, observed, taken.plaintext);
                    return Ok(Self::Kernel(pump));
                }
                Err(NotTaken::Stays(session, why)) => (*session, format!("no relay-ktls: {why}").into()),
                Err(NotTaken::Lost(error)) => return Err(error),
            },
        };
        observed.established(Datapath::RelayUserspace, Some(why));
        let (peer, codec, incoming, to_application, to_peer) = session.into_parts();
        let pump = Pump::new(application, peer, codec, observed, incoming, to_application, to_peer);
        Ok(Self::UserSpace(pump))
    }

    /// Moves bytes until both directions have ended, or one end fails, or nothing was moved for `idle`.
    ///
    /// # Errors
    /// Why the connection was cut.
    pub async fn run(&mut self, idle: Option<Duration>) -> Result<(), PumpError> {
        let observed = self.observed();
        let moved = async {
            match self {
                Self::UserSpace(pump) => pump.run().await,
                Self::Kernel(pump) => pump.run().await,
            }
        };
        let Some(limit) = idle else {
            return moved.await;
        };
        tokio::select! {
            result = moved => result,
            () = idle_for(limit, observed) => Err(PumpError::Idle(limit)),
        }
    }

    /// As [`Carrier::run`], but also ends when `stopped` becomes true.
    ///
    /// # Errors
    /// As [`Carrier::run`], and [`PumpError::Stopped`].
    pub async fn run_until(
        &mut self,
        idle: Option<Duration>,
        mut stopped: watch::Receiver<bool>,
    ) -> Result<(), PumpError> {
        tokio::select! {
            result = self.run(idle) => result,
            _ = stopped.wait_for(|stopped| *stopped) => Err(PumpError::Stopped),
        }
    }

    /// Closes both sockets as the result asks for.
    pub fn end(self, result: &Result<(), PumpError>) {
        match self {
            Self::UserSpace(pump) => pump.end(result),
            Self::Kernel(pump) => pump.end(result),
        }
    }

    fn observed(&self) -> &'a Observed {
        match self {
            Self::UserSpace(pump) => pump.observed(),
            Self::Kernel(pump) => pump.observed(),
        }
    }
}
