//! What carries a connection once both ends are there: the kernel's TLS if it can be had, else rustls.

use std::borrow::Cow;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::watch;

use super::context::Offload;
use super::pump::handover::{Handover, WORTH};
use super::pump::{Moved, Pump};
use super::session::{NotTaken, Session};
use crate::datapath::PumpError;
use crate::datapath::ends::{count, idle_for};
use crate::datapath::ktls::{self, Channel, KernelPump, Terms};
use crate::datapath::tls::ChannelError;
use crate::observe::connection::Datapath;
use crate::observe::observer::Observed;

const NO_DIRECT: &str = "direct is not part of this version of mtlsd";
const NOT_MUCH: &str = "relay-ktls takes over, while both directions are open, when large reads have brought 1 MiB; for \
                        small messages user space is faster; `datapath: relay-ktls` begins with it";

/// A pump of either kind.
pub enum Carrier<'a> {
    /// relay-userspace, and everything that is not TLS of ours. The terms: on which the kernel may take over.
    UserSpace(Pump<'a>, Option<Terms>),
    /// relay-ktls.
    Kernel(KernelPump<'a>),
    /// The kernel took only half of it. Both sockets are closed.
    Lost(&'a Observed),
}

impl<'a> Carrier<'a> {
    /// Takes the best datapath for the beginning that `offload` allows, and notes which and why not a better one.
    ///
    /// # Errors
    /// When the kernel took only half of the connection: it is lost, and both ends are reset.
    pub fn new(
        session: Session,
        application: TcpStream,
        observed: &'a Observed,
        offload: Result<Offload, Cow<'static, str>>,
    ) -> Result<Self, ChannelError> {
        let (session, later, why) = match offload {
            Err(why) => (session, None, why),
            Ok(Offload { terms, at_once: false }) => (session, Some(terms), NOT_MUCH.into()),
            Ok(Offload { terms, at_once: true }) => match session.into_kernel(&terms) {
                Ok(taken) => {
                    observed.established(Datapath::RelayKtls, Some(NO_DIRECT.into()));
                    observed.add_received(count(taken.plaintext.waiting().len()));
                    let pump =
                        KernelPump::new(application, taken.tcp, taken.channel, observed, taken.plaintext);
                    return Ok(Self::Kernel(pump));
                }
                Err(NotTaken::Stays(session, why)) => {
                    (*session, None, format!("no relay-ktls: {why}").into())
                }
                Err(NotTaken::Lost(error)) => return Err(error),
            },
        };
        observed.established(Datapath::RelayUserspace, Some(why));
        let handover = later.map(|_| Handover::after(WORTH, session.answer_may_wait()));
        let (peer, codec, incoming, to_application, to_peer) = session.into_parts();
        let mut pump = Pump::new(application, peer, codec, observed, incoming, to_application, to_peer);
        pump.hand_over(handover);
        Ok(Self::UserSpace(pump, later))
    }

    /// A pump that stays in user space.
    #[must_use]
    pub fn user_space(pump: Pump<'a>) -> Self {
        Self::UserSpace(pump, None)
    }

    /// Moves bytes until both directions have ended, or one end fails, or nothing was moved for `idle`.
    ///
    /// # Errors
    /// Why the connection was cut.
    pub async fn run(&mut self, idle: Option<Duration>) -> Result<(), PumpError> {
        let observed = self.observed();
        let moved = self.move_all();
        let Some(limit) = idle else {
            return moved.await;
        };
        tokio::select! {
            result = moved => result,
            () = idle_for(limit, observed) => Err(PumpError::Idle(limit)),
        }
    }

    async fn move_all(&mut self) -> Result<(), PumpError> {
        loop {
            match self {
                Self::UserSpace(pump, _) => match pump.run().await? {
                    Moved::All => return Ok(()),
                    Moved::Enough => self.hand_over()?,
                },
                Self::Kernel(pump) => return pump.run().await,
                Self::Lost(_) => return Err(PumpError::Stopped),
            }
        }
    }

    /// Hands a connection that carries much to the kernel, or leaves it for good where it is.
    fn hand_over(&mut self) -> Result<(), ChannelError> {
        let observed = self.observed();
        let Self::UserSpace(pump, later) = self else { return Ok(()) };
        let Some(terms) = later.take() else {
            pump.hand_over(None);
            return Ok(());
        };
        if let Err(errno) = ktls::enable(pump.peer()) {
            observed.stays(format!("no relay-ktls: setsockopt(TCP_ULP, \"tls\") says {errno}"));
            pump.hand_over(None);
            return Ok(());
        }
        let Some(records) = pump.take_records() else {
            observed.stays(
                "no relay-ktls: the TLS state was not at rest when it was to be handed over".to_owned(),
            );
            pump.hand_over(None);
            return Ok(());
        };
        let Self::UserSpace(pump, _) = std::mem::replace(self, Self::Lost(observed)) else { return Ok(()) };
        let (application, peer, to_application) = pump.into_sockets();
        let channel = Channel::install(&peer, records, &terms)?;
        observed.moved(Datapath::RelayKtls, NO_DIRECT.into());
        *self = Self::Kernel(KernelPump::new(application, peer, channel, observed, to_application));
        Ok(())
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
            Self::UserSpace(pump, _) => pump.end(result),
            Self::Kernel(pump) => pump.end(result),
            Self::Lost(_) => {}
        }
    }

    fn observed(&self) -> &'a Observed {
        match self {
            Self::UserSpace(pump, _) => pump.observed(),
            Self::Kernel(pump) => pump.observed(),
            Self::Lost(observed) => observed,
        }
    }
}
